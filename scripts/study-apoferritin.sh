#!/usr/bin/env bash
# Shows how a particle is learnt from nothing: half of the micrographs train a narrow network, the other half judge it.
#   scripts/study-apoferritin.sh DATA OUTPUT [EPICKER]
# DATA holds pairs NAME.mrc and NAME.star (docs/training.md). Steps that are done are skipped, and an interrupted training goes
# on from its last checkpoint, so the script may be run again at any time. THREADS (2) changes the time, but no result.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
EPICKER=${3:-epicker} DIAMETER=126 FRAME=512
SETTINGS=(--width 0.25 --frame "$FRAME" --batch_size 1 --lr 2e-3 --num_epochs 60 --lr_step 42,54)
. "$here/study.sh"

halves "$1" "$2"
learn "$2" all "$2/odd"
judge "$2" all

awk '{ seconds += $1 + $2 } END { printf "CPU time of the training: %.0f s\n", seconds }' "$2/all/cpu-seconds.txt"
cat "$2/all/judged.txt"
echo "curves: $2/all/loss.svg, $2/all/judged/PR.svg"
