#!/usr/bin/env bash
# Topaz's pretrained detector on labelled micrographs, judged by epicker's own matching at several scales.
#   benches/peers/topaz.sh VALIDATION TEST OUTPUT DIAMETER_PX SCALES...
# VALIDATION and TEST are folders of NAME.mrc with NAME.star; SCALES the factors by which micrographs are shrunk. The scale
# with the best F1 on VALIDATION is taken, its threshold too, and TEST is judged with both. Topaz runs as its guide says:
# preprocess (the two-component mixture), then extract with the model resnet16, a radius of 0.4 diameters and the lowest
# threshold that its help names. On the path: topaz, python3 (benches/peers/README.md); epicker by EPICKER.
set -euo pipefail
validation=$1 test=$2 out=$3 diameter=$4
shift 4
epicker=${EPICKER:-epicker}
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= # its threads wait for each other on a busy machine

find_particles() { # FOLDER OUTPUT SCALE
    [ -e "$2/picks.txt" ] && return
    mkdir -p "$2"
    topaz preprocess -j 1 -t 1 -d -1 -s "$3" -o "$2/preprocessed" "$1"/*.mrc > "$2/log.txt" 2>&1
    local radius
    radius=$(awk -v d="$diameter" -v s="$3" 'BEGIN { printf "%d", 0.4 * d / s + 0.5 }')
    topaz extract -j 1 -d -1 -r "$radius" -t -6 -x "$3" -o "$2/picks.part" "$2/preprocessed"/*.mrc >> "$2/log.txt" 2>&1
    mv "$2/picks.part" "$2/picks.txt"
}

judge() { # FOLDER OUTPUT [OPTIONS]
    local folder=$1 picks=$2
    shift 2
    "$epicker" eval --data "$folder" --label "$folder" --picks "$picks/picks.txt" --format topaz --diameter_px "$diameter" \
        --output "$picks/judged" "$@" > "$picks/judged.txt"
}

number() { # FILE PATH...: a number of eval.json
    python3 -c 'import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]: value = value[key]
print(value)' "$@"
}

best=0 scale=
for s in "$@"; do
    find_particles "$validation" "$out/validation-$s" "$s"
    judge "$validation" "$out/validation-$s" --bootstrap 0
    f1=$(number "$out/validation-$s/judged/eval.json" f1_best)
    echo "scale $s: best F1 on the validation images $f1"
    if awk -v a="$f1" -v b="$best" 'BEGIN { exit !(a > b) }'; then best=$f1 scale=$s; fi
done
threshold=$(number "$out/validation-$scale/judged/eval.json" threshold_best)
find_particles "$test" "$out/test-$scale" "$scale"
judge "$test" "$out/test-$scale" --vis_thresh "$threshold"
echo "scale $scale, threshold $threshold, on the test images:"
cat "$out/test-$scale/judged.txt"
