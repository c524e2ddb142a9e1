#!/usr/bin/env bash
# Shows how well radii are learnt: a network is trained on one real micrograph of vesicles and on drawn ones, and judged on drawn
# vesicles of known radii that it has not seen. The result is in docs/training.md, section "Vesicles".
#
#   scripts/study-vesicles.sh EPICKER DATA OUTPUT [DRAWER]
#
# EPICKER  the program
# DATA     a folder with vesicles-240: one micrograph with its vesicles in a .box file
# OUTPUT   a folder for the results; results that are there are not made again, and an interrupted training goes on where it was
# DRAWER   examples/draw_micrographs [default: beside EPICKER in examples/]
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
epicker=$(realpath "$1") data=$(realpath "$2") output=$3
drawer=$(realpath "${4:-$(dirname "$epicker")/examples/draw_micrographs}")
mkdir -p "$output"/{train,real}
cd "$output"

for labels in "$data"/vesicles-240/*.box; do
    ln -sf "$labels" "${labels%.box}.mrc" train/
    ln -sf "$labels" "${labels%.box}.mrc" real/
done
for part in "1 train" "2 drawn"; do
    read -r seed folder <<<"$part"
    [ -e "$folder/vesicle_${seed}_004.mrc" ] || "$drawer" vesicle "$folder" --seed "$seed" --count 5 --labels box \
        --diameter 50 --largest 130 --particles 40 --contrast 0.8 --angpix 4.12
done

if [ ! -e learnt/done ]; then
    resume=()
    [ ! -e learnt/model_last.pth ] || resume=(--resume)
    mkdir -p learnt
    TIMEFORMAT='%U'
    { time nice -n 15 "$epicker" train --mode vesicle --data train --label train --label_type box --exp_id learnt \
        --width 0.25 --frame 256 --batch_size 4 --lr 1e-3 --num_epoch "${EPOCHS:-150}" \
        --train_pct 100 --val_pct 0 --test_pct 0 --threads 1 "${resume[@]}" >>learnt/told 2>&1; } 2>>learnt/cpu_seconds
    touch learnt/done
fi
for set in drawn real; do
    echo "$set:"
    "$epicker" eval --mode vesicle --data "$set" --label "$set" --label_type box --load_model learnt/model_last.safetensors \
        --frame 256 --bootstrap 0 --threads 1
done | tee table.txt
awk '{ sum += $1 } END { printf "CPU seconds of the training: %.0f\n", sum }' learnt/cpu_seconds | tee -a table.txt
