#!/usr/bin/env bash
# Trains the general models that lie beside this script, from nothing.
#   weights/train.sh DATA OUTPUT
# DATA holds the sets of weights/README.md in folders of their own: apoferritin-10146, betagal-10017, no-particles-micassess
# (NAME.mrc with NAME.star) and structures (.gz and .mrc). It takes some hours on two cores, and 9 GB in OUTPUT. Steps that are done
# are skipped, and an interrupted training goes on from its last checkpoint, so the script may be run again at any time.
# THREADS (2) changes the time, but no result. EPICKER and TILES name the programs [default: built from this source].
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
data=$(cd "$1" && pwd) out=$(cd "$2" && pwd) threads=${THREADS:-2}
if [ -z "${EPICKER:-}" ] || [ -z "${TILES:-}" ]; then
    (cd "$here" && cargo build --release --bin epicker --example training_tiles)
    EPICKER=$here/target/release/epicker TILES=$here/target/release/examples/training_tiles
fi
cd "$out"
mkdir -p done logs

# once NAME COMMAND...: runs the command, unless that was done before.
once() {
    local name=$1
    shift
    [ -e "done/$name" ] && return
    echo "$(date +%H:%M) $name"
    "$@" >> "logs/$name.txt" 2>&1
    touch "done/$name"
}

# simulated NAME COUNT SEED TILE TILES-SEED TRUTH OPTIONS...: simulates micrographs of 512 x 512 pixels and cuts them into tiles,
# each of which is made worse in a way of its own.
simulated() {
    local name=$1 count=$2 seed=$3 tile=$4 worse=$5 truth=$6
    shift 6
    once "simulate-$name" "$EPICKER" simulate --output "simulated/$name" --count "$count" --size 512 --seed "$seed" --half --overwrite "$@"
    once "tiles-$name" "$TILES" "simulated/$name" "tiles/$name" --labels "simulated/$name/truth/$truth" --tile "$tile" --seed "$worse"
    rm -rf "simulated/$name"
}

# deal SET: deals its micrographs, by sorted name, to train, validate, test, test, train, and so on.
deal() {
    local set=$1 i=0 file part
    for file in "$data/$set"/*.mrc; do
        case $((i % 5)) in 0 | 4) part=train ;; 1) part=validate ;; *) part=test ;; esac
        mkdir -p "real/$set/$part"
        ln -sf "$file" "${file%.mrc}.star" "real/$set/$part/"
        i=$((i + 1))
    done
}

# deal_half SET: every second micrograph trains, the others test.
deal_half() {
    local set=$1 part=train file
    for file in "$data/$set"/*.mrc; do
        mkdir -p "real/$set/$part"
        ln -sf "$file" "${file%.mrc}.star" "real/$set/$part/"
        if [ "$part" = train ]; then part=test; else part=train; fi
    done
}

# mix NAME SET[:COUNT[:COPIES]]...: makes one folder of links to the tiles of several sets; of each set it takes all tiles or the
# first COUNT, and each tile as many times as COPIES says.
mix() {
    local name=$1 set folder count copies copy file
    shift
    mkdir -p "mixed/$name"
    for set in "$@"; do
        IFS=: read -r folder count copies <<< "$set"
        for copy in $(seq "${copies:-1}"); do
            for file in $(cd "tiles/$folder" && ls | sed "$((2 * ${count:-1000000}))q"); do # micrographs and labels, in turn
                ln -sf "$out/tiles/$folder/$file" "mixed/$name/${folder}_${copy}_$file"
            done
        done
    done
}

# learn NAME TILES SIDE BATCH OPTIONS...: trains on mixed/TILES, which are tiles of this side, with BATCH tiles in each step.
learn() {
    local name=$1 tiles=$2 side=$3 batch=$4 resume=()
    shift 4
    [ -e "runs/$name/model_last.pth" ] && resume=(--resume)
    once "train-$name" "$EPICKER" train --data "mixed/$tiles" --label "mixed/$tiles" --exp_id "runs/$name" --frame "$side" \
        --batch_size "$batch" --train_pct 98 --val_pct 2 --test_pct 0 --seed 1 --threads "$threads" "$@" "${resume[@]}"
}

# There are three kinds of structures: those that no model sees, those that models without hollow shells do not see, and filaments.
unseen='1rb8|2j5k|1gme|7cat|1auk'
shells='6ezm|1ihm|2buk|3j6r|4yvs'
filaments='4udv|5o3l|6bno|mt14'
structures() { find -L "$data/structures" -name '*.gz' -o -name '*.mrc' | sort | grep -E "$@"; }

# Particles are 24 pixels wide when they are picked; the network sees 17 to 32, because diameters are guesses.
wide=(--particle_pixels 17,32)
solid=(--shape barrel,rings,domains,oligomer,membrane)
simulated structures 2000 12 256 2 star "${wide[@]}" --structure $(structures -v "$unseen|$shells|$filaments")
simulated kinds 3000 11 256 1 star "${wide[@]}" --kinds 3000 "${solid[@]}"
simulated crowds 1000 15 256 3 star "${wide[@]}" --kinds 1000 "${solid[@]}" --crowding 0.35,0.5
simulated shells 500 13 256 7 star "${wide[@]}" --kinds 500 --shape shell
simulated shell-structures 100 14 256 8 star "${wide[@]}" --structure $(structures "$shells")
simulated narrow-kinds 3600 11 512 1 star "${wide[@]}" --kinds 3600 "${solid[@]}"
simulated narrow-structures 2400 12 512 2 star "${wide[@]}" --structure $(structures -v "$unseen|$shells|$filaments")
simulated vesicles 1200 21 512 3 thi --preset vesicle --particle_pixels 14,80 --crowding 0.08,0.5
simulated fibers 1000 22 512 4 thi --preset fiber --particle_pixels 4,18 --kinds 1000 --crowding 0.02,0.15

deal apoferritin-10146
deal betagal-10017
rm -f real/betagal-10017/train/*16_51_03* # many of its particles have no label
deal_half no-particles-micassess
once tiles-apoferritin "$TILES" real/apoferritin-10146/train tiles/apoferritin --tile 256 --diameter 84 --to 17,32 --versions 24 --seed 5
once tiles-betagal "$TILES" real/betagal-10017/train tiles/betagal --tile 256 --diameter 40.5 --to 17,32 --versions 10 --seed 6
once tiles-no-particles "$TILES" real/no-particles-micassess/train tiles/no-particles --tile 256 --versions 6 --seed 9

tune() { # NAME FROM RATE EPOCHS STEP-OF-THE-RATE ITERATIONS [TILES=NAME]: goes on from another model's weights
    learn "$1" "${7:-$1}" 256 8 --load_model "runs/$2/model_last.safetensors" --particle_size 6 --lr "$3" --num_epochs "$4" --lr_step "$5" --num_iters "$6"
}

# The model that all others begin with has seen neither shells nor real micrographs.
mix first structures
learn first first 256 8 --width 0.25 --min_channels 16 --particle_size 6 --lr 1e-3 --num_epochs 10 --lr_step 99 --num_iters 100
mix base kinds crowds structures
tune base first 1e-3 1 99 150
mix without-apoferritin kinds:1600 crowds:3000 structures:1200 betagal:1000:2 no-particles:1000:2
tune without-apoferritin base 3e-4 4 3 100
tune without-apoferritin-longer without-apoferritin 5e-4 8 6 100 without-apoferritin
mix particle kinds:1600 crowds:2000 structures:1200 shells:1000 shell-structures apoferritin:1000:2 betagal:1000:3 no-particles:1000:2
tune particle without-apoferritin 3e-4 5 4 100
mix simulated kinds:1600 crowds:2000 structures:1200 shells shell-structures
tune simulated base 3e-4 4 3 100
mix without-betagal kinds:1600 crowds:2000 structures:1200 shells:1000 shell-structures apoferritin:1000:2 no-particles:1000:2
tune without-betagal simulated 3e-4 4 3 100

# Vesicles begin with the first weights of particles, filaments with those of a narrower network of an earlier day.
mix vesicle vesicles
learn vesicle vesicle 512 2 --mode vesicle --load_model runs/first/model_last.safetensors --particle_size 10 --lr 1e-3 --num_epochs 6 --lr_step 4,5 --num_iters 100
mix narrow narrow-kinds narrow-structures
learn narrow narrow 512 2 --width 0.25 --particle_size 6 --lr 1e-3 --num_epochs 12 --num_iters 150 --lr_step 99
mix fiber fibers
learn fiber fiber 512 2 --mode fiber --load_model runs/narrow/model_last.safetensors --particle_size 3 --lr 1e-3 --num_epochs 6 --lr_step 4 --num_iters 100

# The thresholds were chosen on validation micrographs: weights/README.md.
# particle also asks for level ground, two views and a threshold that is sought: weights/README.md.
for model in particle:0.35 vesicle:0.3 fiber:0.25; do
    more=()
    [ "$model" = particle:0.35 ] && more=(--ground 72 --average 2 --noise_share 0.7)
    "$EPICKER" convert "runs/${model%:*}/model_last.safetensors" "${model%:*}.safetensors" --half --threshold "${model#*:}" "${more[@]}"
done
