#!/usr/bin/env bash
# How well the threshold that is sought serves, for several shares of noise (docs/options.md, "Threshold"): the table of weights/README.md.
#   scripts/study-threshold.sh DATA OUTPUT [EPICKER] [TILES]
# DATA holds apoferritin-10146, betagal-10017, proteasome20s-mm and trpv1-10059 (NAME.mrc with NAME.star) and structures. EPICKER and
# TILES are the program and examples/training_tiles [default: built from this source]. Each simulated micrograph is a set by itself.
# It takes about a quarter of an hour on two cores; what is done is not done again.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
data=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
if [ $# -lt 4 ]; then
    (cd "$here" && cargo build --release --bin epicker --example training_tiles)
fi
epicker=${3:-$here/target/release/epicker} tiles=${4:-$here/target/release/examples/training_tiles}
cd "$out"

filaments='4udv|5o3l|6bno|mt14'
bank() { # NAME COUNT SEED OPTIONS...: simulated micrographs of 768 pixels, at the contrast of real ones, two fifths of them dirty
    local name=$1 count=$2 seed=$3
    shift 3
    [ -d "bank/$name" ] && return
    "$epicker" simulate --output "simulated/$name" --count "$count" --size 768 --seed "$seed" --half --overwrite --particle_pixels 22,26 -q "$@"
    "$tiles" "simulated/$name" "bank/$name.part" --labels "simulated/$name/truth/box" --tile 768 --seed "$seed" --contrast 1.05,2.6 --decoys 0.4
    mv "bank/$name.part" "bank/$name"
}
mkdir -p bank
bank kinds 24 9101 --kinds 120
bank few-particles 20 9102 --kinds 60 --crowding 0.004,0.05
bank crowds 20 9103 --kinds 60 --crowding 0.3,0.5
# shellcheck disable=SC2046 # a list of files
bank structures 12 9104 --structure $(find -L "$data/structures" -name '*.gz' -o -name '*.mrc' | sort | grep -vE "$filaments")

judge() { # MODEL SET DIAMETER-IN-PIXELS OPTIONS...: F1 at the best threshold and as shipped
    local model=$1 set=$2 diameter=$3
    shift 3
    "$epicker" eval --data "$set" --label "${set%.mrc}$([ -d "$set" ] || echo .star)" --load_model "$model" --diameter_px "$diameter" \
        --bootstrap 0 --json -q "$@" 2> /dev/null | tail -1 | sed -E 's/.*"f1_best":([0-9.]+).*"f1_shipped":([0-9.]+).*/\1 \2/'
}
mean() { awk '{ best += $1; shipped += $2 } END { printf "best %.3f, shipped %.3f, %d sets\n", best / NR, shipped / NR, NR }'; }

"$epicker" convert "$here/weights/particle.safetensors" model.safetensors > model.txt
for how in 0.5 0.7 0.9 fixed; do
    options=()
    if [ "$how" = fixed ]; then
        options=(--vis_thresh 0.35)
    else
        "$epicker" convert model.safetensors "share-$how.safetensors" --noise_share "$how" > model.txt
    fi
    model=$([ "$how" = fixed ] && echo model.safetensors || echo "share-$how.safetensors")
    for set in apoferritin-10146:84 betagal-10017:40.5 proteasome20s-mm:21.5 trpv1-10059:28.5; do
        judge "$model" "$data/${set%:*}" "${set#*:}" "${options[@]}"
    done | mean | sed "s/^/real, $how: /"
    for set in kinds few-particles crowds structures; do
        for micrograph in bank/"$set"/*.mrc; do
            judge "$model" "$micrograph" 24 --frame 768 "${options[@]}"
        done | mean | sed "s/^/$set, $how: /"
    done
done
