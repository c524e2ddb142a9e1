#!/usr/bin/env bash
# Shows what epicker train does as it comes: nothing is given but micrographs, labels and the diameter.
#   scripts/study-defaults.sh DATA OUTPUT [EPICKER]
# DATA holds the sets apoferritin-10146, betagal-10017 and trpv1-10059 in folders of their own (NAME.mrc with NAME.star). Of every
# set some micrographs are given to the training, which keeps a fifth of them to choose the best epoch; the others, which it never
# sees, judge the result. Of apoferritin and beta-galactosidase, by sorted name, every fifth micrograph from the third and from the
# fourth on judges; these are the ones that the general model has not seen either. Of the five micrographs of TRPV1 one judges, and
# each seed takes another one. Three seeds draw everything else. THREADS (2) changes the time, but no result. Steps that are done are
# not done again.
set -euo pipefail
data=$(realpath "$1") out=$2 epicker=${3:-epicker} threads=${THREADS:-2}
mkdir -p "$out"

# deal FOLDER SET IS_TEST: links the micrographs of SET into FOLDER/learn, or into FOLDER/test if their number stands in IS_TEST.
deal() {
    local folder=$1 i=0 file part
    mkdir -p "$folder/learn" "$folder/test"
    for file in "$data/$2"/*.mrc; do # sorted
        if [[ " $3 " == *" $i "* ]]; then part=test; else part=learn; fi
        ln -sf "$file" "${file%.mrc}.star" "$folder/$part/"
        i=$((i + 1))
    done
}

# judge NAME MODEL FOLDER DIAMETER: prints F1 at the best threshold and average precision on FOLDER/test, and keeps them in NAME.txt.
judge() {
    [ -e "$1.txt" ] || {
        "$epicker" eval --data "$3/test" --label "$3/test" --load_model "$2" --diameter "$4" --bootstrap 0 --threads "$threads" > "$1.part"
        mv "$1.part" "$1.txt"
    }
    awk '/^average precision/ { ap = $3 } /^best F1/ { f1 = $3 } END { printf "F1 %.3f, AP %.3f", f1, ap }' "$1.txt"
}

# learn NAME FOLDER DIAMETER SEED OPTIONS...: trains as it comes, and prints the CPU seconds.
learn() {
    local name=$1 folder=$2 diameter=$3 seed=$4
    shift 4
    [ -e "$name/done" ] || {
        TIMEFORMAT='%U %R'
        { time "$epicker" train --data "$folder/learn" --label "$folder/learn" --diameter "$diameter" --exp_id "$name" --overwrite \
            --seed "$seed" --threads "$threads" "$@" > "$name.train.txt" 2>&1; } 2> "$name.seconds"
        touch "$name/done"
    }
    awk '{ printf "%.0f CPU s", $1 }' "$name.seconds"
}

# row SET DIAMETER SEED IS_TEST: prints the scores of the general model, and the scores after the trainings.
row() {
    local set=$1 diameter=$2 seed=$3 folder=$out/$1-$3 start options
    deal "$folder" "$set" "$4"
    echo "$set, seed $seed, general model: $(judge "$folder/general" particle "$folder" "$diameter")"
    for start in general nothing; do
        if [ "$start" = nothing ]; then options=(--from-scratch); else options=(); fi
        [ "$start" = nothing ] && [ "$set" != apoferritin-10146 ] && continue
        echo "$set, seed $seed, from $start: $(learn "$folder/$start" "$folder" "$diameter" "$seed" "${options[@]}"), " \
            "$(judge "$folder/$start-judged" "$folder/$start/model_best.safetensors" "$folder" "$diameter");" \
            "$(grep -E '^the best is epoch|no epoch was better' "$folder/$start.train.txt")"
    done
}

for seed in 1 2 3; do
    row apoferritin-10146 126 "$seed" "2 3 7 8"
    row betagal-10017 190 "$seed" "2 3"
    row trpv1-10059 130 "$seed" "$((2 * (seed - 1)))"
done
