# The functions that the studies of particles share; each of them sources this file. It expects EPICKER (the program), SETTINGS (an array of options of
# epicker train), DIAMETER (angstrom) and FRAME, and takes THREADS from the environment (default 2).

threads=${THREADS:-2}

# halves DATA OUTPUT: links the pairs NAME.mrc and NAME.star of DATA, by sorted name in turn, into OUTPUT/odd and OUTPUT/even.
halves() {
    local data out file turn=even
    data=$(cd "$1" && pwd) out=$2
    mkdir -p "$out/odd" "$out/even"
    for file in "$data"/*.mrc; do # sorted
        if [ "$turn" = even ]; then turn=odd; else turn=even; fi
        ln -sf "$file" "${file%.mrc}.star" "$out/$turn/"
    done
}

# learn OUTPUT NAME LABELS [OPTIONS]: trains OUTPUT/NAME on the odd half unless that is done, and goes on where it was interrupted.
learn() {
    local out=$1 name=$2 labels=$3 resume=()
    shift 3
    [ -e "$out/$name/trained" ] && return
    mkdir -p "$out/$name"
    [ -e "$out/$name/model_last.pth" ] && resume=(--resume)
    # The CPU seconds of every run are kept, and their sum is the time that the training took.
    TIMEFORMAT='%U %S'
    { time "$EPICKER" train --data "$out/odd" --label "$labels" --exp_id "$out/$name" --diameter "$DIAMETER" --train_pct 100 \
        --threads "$threads" "${SETTINGS[@]}" "$@" "${resume[@]}" >> "$out/$name/train.txt" 2>&1; } 2>> "$out/$name/cpu-seconds.txt"
    touch "$out/$name/trained"
}

# judge OUTPUT NAME: compares the picks of the model in OUTPUT/NAME with all labels of the even half.
judge() {
    local out=$1 name=$2
    [ -e "$out/$name/judged.txt" ] && return
    "$EPICKER" eval --data "$out/even" --label "$out/even" --load_model "$out/$name/model_last.safetensors" --diameter "$DIAMETER" \
        --frame "$FRAME" --threads "$threads" --output "$out/$name/judged" > "$out/$name/judged.part"
    mv "$out/$name/judged.part" "$out/$name/judged.txt"
}
