#!/usr/bin/env bash
# Shows what is learnt from few labels: three seeds keep a random tenth of them, and three losses learn from that tenth.
#   scripts/study-sparse.sh DATA OUTPUT [EPICKER]
# DATA and OUTPUT are as for scripts/study-apoferritin.sh; in the same OUTPUT, its training is not done again. The models are judged
# by all labels of the other half, at equal numbers of picks. The script prints a table for docs/training.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
EPICKER=${3:-epicker} DIAMETER=126 FRAME=512
SETTINGS=(--width 0.25 --frame "$FRAME" --batch_size 1 --lr 2e-3 --num_epochs 60 --lr_step 42,54)
. "$here/study.sh"
share=0.1

# thin OUTPUT SEED: keeps a share of the labels of the odd half.
thin() {
    mkdir -p "$1/tenth-$2"
    for file in "$1"/odd/*.star; do
        awk -v share="$share" -v seed="$2" -f "$here/thin-labels.awk" "$file" > "$1/tenth-$2/$(basename "$file")"
    done
}

# row FOLDER WORDS: prints a row of the table from the output of epicker eval.
row() {
    awk -v row="$2" '
        /^average precision/ { ap = $3 }
        /^best F1/ { f1 = $3 }
        /^best [0-9]/ { at = at sprintf(" %s |", substr($5, 1, 6)) }
        END { printf "| %s | %s | %s |%s\n", row, ap, f1, at }' "$1/judged.txt"
}

halves "$1" "$2"
learn "$2" all "$2/odd"
judge "$2" all
for seed in 1 2 3; do
    thin "$2" "$seed"
    for loss in focal sparse-original sparse; do
        learn "$2" "$loss-$seed" "$2/tenth-$seed" --seed "$seed" --heat_map_loss "$loss"
        judge "$2" "$loss-$seed"
    done
done

awk '/^best [0-9]/ { counts = counts sprintf(" F1 of the best %d picks |", $2) }
     END { n = gsub(/\|/, "|", counts); printf "| labels, loss, seed | AP | best F1 |%s\n|---|---|---|", counts
           for (i = 0; i < n; i++) printf "---|"; print "" }' "$2/all/judged.txt"
row "$2/all" "all, focal"
for loss in focal sparse-original sparse; do
    for seed in 1 2 3; do
        row "$2/$loss-$seed" "a tenth, $loss, $seed"
    done
done
