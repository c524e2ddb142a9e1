#!/usr/bin/env bash
# Shows what is learnt from a 2-D classification that is simulated: the general model picks the odd half of the micrographs; picks at
# labels are the selected classes, the others the rejected ones, and some are mistaken for the other. Three seeds learn from both, and from
# the selected ones alone, and all labels of the even half judge them beside the general model.
#   scripts/study-selection.sh DATA OUTPUT DIAMETER PIXEL_SIZE [EPICKER]
# DATA holds pairs NAME.mrc and NAME.star, DIAMETER is in angstrom, and PIXEL_SIZE that of the micrographs, in angstrom. Steps that are done
# are skipped. MISTAKEN (0.05) is the share of picks in the wrong class. The script prints a table for docs/training.md.
#   OLDER=FOLDER OLDER_DIAMETER=126 OLDER_PIXEL_SIZE=1.5
# names an older data set: exemplars of its odd half are then replayed in trainings that learn from both (--continual), and its even half
# shows what each model still knows of it.
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

older=${OLDER:-}
if [ -n "$older" ]; then
    older_at=(--diameter "${OLDER_DIAMETER:?}" --angpix "${OLDER_PIXEL_SIZE:?}" --threads "$threads")
    halves "$older" "$out/older"
    [ -e "$out/exemplars" ] || "$EPICKER" exemplar create "$out/exemplars" --data "$out/older/odd" --label "$out/older/odd" \
        --diameter "$OLDER_DIAMETER" --angpix "$OLDER_PIXEL_SIZE" --load_model particle > "$out/exemplars.txt" 2>&1
fi

# scores DATA MODEL OPTIONS...: average precision and best F1.
scores() {
    local of=$1 model=$2
    shift 2
    "$EPICKER" eval --data "$of" --label "$of" --load_model "$model" "$@" |
        awk '/^average precision/ { ap = $3 } /^best F1/ { best = $3 } END { printf " %s | %s |", ap, best }'
}

# row NAME MODEL: a row of the table.
row() {
    printf '| %s |%s' "$1" "$(scores "$out/even" "$2" "${at[@]}")"
    [ -z "$older" ] || printf '%s' "$(scores "$out/older/even" "$2" "${older_at[@]}")"
    echo
}

if [ -n "$older" ]; then
    printf '| learnt from | AP | best F1 | older set: AP | best F1 |\n|---|---|---|---|---|\n'
else
    printf '| learnt from | AP | best F1 |\n|---|---|---|\n'
fi
row "nothing (general model)" particle
for seed in 1 2 3; do
    learn_selection "selected-$seed" "$seed"
    row "selected, seed $seed" "$out/selected-$seed/model_last.safetensors"
    learn_selection "both-$seed" "$seed" --rejected "$out/rejected-$seed.star"
    row "both, seed $seed" "$out/both-$seed/model_last.safetensors"
    [ -n "$older" ] || continue
    learn_selection "replayed-$seed" "$seed" --rejected "$out/rejected-$seed.star" --load_model particle --continual \
        --load_exemplar "$out/exemplars" --output_exemplar "$out/kept-$seed"
    row "both and exemplars, seed $seed" "$out/replayed-$seed/model_last.safetensors"
done
