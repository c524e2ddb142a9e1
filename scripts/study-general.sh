#!/usr/bin/env bash
# Shows what a general model is worth: it is fine-tuned with 5 labelled images, and compared with networks that are trained from
# nothing with 10.
#   scripts/study-general.sh DATA GENERAL OUTPUT [EPICKER] [TILES]
# DATA is the apoferritin set (docs/training.md); GENERAL a model that has never seen it or its like (weights/train.sh makes it:
# without-apoferritin). An image is a quarter of a micrograph, some 45 particles: six micrographs give 24
# images, and the other four micrographs test. Three seeds draw images and numbers. TILES is the program of examples/training_tiles.rs.
# THREADS (2) changes the time, but no result.
set -euo pipefail
general=$(realpath "$2") out=$3 threads=${THREADS:-2}
epicker=${4:-epicker} tiles=${5:-training_tiles}
mkdir -p "$out/learn" "$out/test"
i=0
for file in "$1"/*.mrc; do # sorted; every fifth from the third and fourth on tests
    case $((i % 5)) in 2 | 3) part=test ;; *) part=learn ;; esac
    ln -sf "$(realpath "$file")" "$(realpath "${file%.mrc}.star")" "$out/$part/"
    i=$((i + 1))
done
[ -e "$out/quarters" ] || "$tiles" "$out/learn" "$out/quarters" --diameter 84 --to 24,24 --tile 192 --plain

learn() { # NAME COUNT SEED OPTIONS...: trains with COUNT images, then tests
    local name=$1 count=$2 seed=$3 file
    shift 3
    [ -e "$out/$name/judged.txt" ] && return
    mkdir -p "$out/$name/images"
    for file in $(cd "$out/quarters" && ls ./*.mrc | shuf --random-source=<(yes "$seed") | sed "${count}q"); do
        ln -sf "$(realpath "$out/quarters/${file%.mrc}".mrc)" "$(realpath "$out/quarters/${file%.mrc}".star)" "$out/$name/images/"
    done
    "$epicker" train --data "$out/$name/images" --exp_id "$out/$name" --frame 192 --particle_size 6 --batch_size 1 --train_pct 100 \
        --seed "$seed" --threads "$threads" "$@" > "$out/$name/train.txt" 2>&1
    "$epicker" eval --data "$out/test" --label "$out/test" --load_model "$out/$name/model_last.safetensors" --diameter 126 --frame 352 \
        --threads "$threads" --output "$out/$name/judged" > "$out/$name/judged.part"
    mv "$out/$name/judged.part" "$out/$name/judged.txt"
}

for seed in 1 2 3; do
    learn "general-5-seed$seed" 5 "$seed" --load_model "$general" --lr 5e-4 --num_epochs 60 --lr_step 45
    learn "nothing-10-seed$seed" 10 "$seed" --width 0.25 --min_channels 16 --lr 2e-3 --num_epochs 60 --lr_step 42,54
    learn "nothing-10-long-seed$seed" 10 "$seed" --width 0.25 --min_channels 16 --lr 2e-3 --num_epochs 200 --lr_step 140,180
done
for name in "$out"/*-seed?; do
    echo "$(basename "$name"): $(grep -E '^(average precision|best F1)' "$name/judged.txt" | sed 's/  *(random.*//; s/  */ /g' | paste -sd ' ')"
done
