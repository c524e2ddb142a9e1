#!/usr/bin/env bash
# Shows what is learnt from a 2-D classification that is simulated: the general model picks the odd half of the micrographs; picks at
# labels are the selected classes, the others the rejected ones, and some are mistaken for the other. Three seeds learn from both, and from
# the selected ones alone, and all labels of the even half judge them beside the general model.
#   scripts/study-selection.sh DATA OUTPUT DIAMETER PIXEL_SIZE [EPICKER]
# DATA holds pairs NAME.mrc and NAME.star, DIAMETER is in angstrom, and PIXEL_SIZE that of the micrographs, in angstrom. Steps that are done
# are skipped. MISTAKEN (0.05) is the share of picks in the wrong class. The script prints a table for docs/training.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2 diameter=$3 pixel_size=$4 EPICKER=${5:-epicker} mistaken=${MISTAKEN:-0.05}
DIAMETER=$diameter FRAME=
. "$here/study.sh"
halves "$data" "$out"
at=(--diameter "$diameter" --angpix "$pixel_size" --threads "$threads")

[ -e "$out/picks/run.json" ] || "$EPICKER" pick --data "$out/odd" --output "$out/picks" --output_type star "${at[@]}" > "$out/picks.txt" 2>&1
for seed in 1 2 3; do
    awk -v reach="$(awk "BEGIN { print 0.5 * $diameter / $pixel_size }")" -v mistaken="$mistaken" -v seed="$seed" -v out="$out" \
        -f "$here/split-picks.awk" "$out"/odd/*.star "$out"/picks/*.star
done

# learn_selection NAME SEED [OPTIONS]: trains OUTPUT/NAME from the classes of a seed.
learn_selection() {
    local name=$1 seed=$2
    shift 2
    [ -e "$out/$name/model_last.safetensors" ] || "$EPICKER" train --data "$out/odd" --selected "$out/selected-$seed.star" --exp_id "$out/$name" \
        --seed "$seed" --train_pct 100 "${at[@]}" "$@" > "$out/$name.txt" 2>&1
}

# judge_model NAME MODEL: a row of the table.
judge_model() {
    "$EPICKER" eval --data "$out/even" --label "$out/even" --load_model "$2" "${at[@]}" > "$out/$1-judged.txt" 2>&1
    awk -v row="$1" '
        /^average precision/ { ap = $3 }
        /^best F1/ { best = $3 }
        /^at / { written = $0 }
        END { printf "| %s | %s | %s |\n", row, ap, best }' "$out/$1-judged.txt"
}

printf '| learnt from | AP | best F1 |\n|---|---|---|\n'
judge_model general particle
for seed in 1 2 3; do
    learn_selection "selected-$seed" "$seed"
    judge_model "selected-$seed" "$out/selected-$seed/model_last.safetensors"
    learn_selection "both-$seed" "$seed" --rejected "$out/rejected-$seed.star"
    judge_model "both-$seed" "$out/both-$seed/model_last.safetensors"
done
