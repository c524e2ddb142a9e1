#!/usr/bin/env bash
# Prints hashes of everything that a build of epicker makes of fixed inputs, so that two builds can be compared by diff:
#   scripts/same-bits.sh EPICKER DATA OUTPUT > hashes.txt
# It hashes the picks and candidates of the demo and of every folder of micrographs in DATA, in all three modes, and the models of
# a training of five epochs (DATA/apoferritin-10146). OUTPUT must not exist. Lists are left out, because they hold the path of OUTPUT.
set -euo pipefail
epicker=$(realpath "$1") data=$(realpath "$2")
mkdir "$3"
cd "$3"
"$epicker" demo --output demo > demo.txt 2>&1
for set in "$data"/*/; do
    name=$(basename "$set")
    compgen -G "$set*.mrc" > /dev/null || continue
    for mode in particle vesicle fiber; do
        # If a micrograph cannot be picked in any mode, it fails in every build alike.
        "$epicker" pick --data "${set%/}" --mode "$mode" --load_model "$mode" --diameter 150 --gpus -1 --output "picks/$name-$mode" > "$name-$mode.txt" 2>&1 || true
    done
done
# Builds before the option let the statistics of norms move.
moving=
if "$epicker" train --help | grep -q norm_statistics; then moving="--norm_statistics move"; fi
# shellcheck disable=SC2086 # none or two words
"$epicker" train $moving --data "$data/apoferritin-10146" --load_model particle --diameter 126 --lr 1e-4 --num_epoch 5 --batch_size 4 \
    --input_res 256 --num_iters 2 --seed 1 --gpus -1 --exp_id training > training.txt 2>&1
find demo picks training -type f \( -name "*.thi" -o -name "*.star" -o -name "*.pth" -o -name "*.safetensors" \) ! -name merge_results.thi \
    | sort | xargs sha256sum
