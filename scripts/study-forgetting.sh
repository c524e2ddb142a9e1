#!/usr/bin/env bash
# Shows what a network forgets: it learns kinds of particles one after the other, in two orders, by plain fine-tuning and with
# --continual; for comparison, one network learns all kinds at once. After each stage the network is judged on unseen
# micrographs of every kind. The table is in docs/training.md, section "Forgetting".
#
#   scripts/study-forgetting.sh EPICKER DATA OUTPUT [DRAWER]
#
# EPICKER  the program
# DATA     a folder with apoferritin-10146 and betagal-10017: micrographs, each with its STAR file; by name, the first four
#          of each set are trained on, and the others judge
# OUTPUT   a folder for the results; results that are there are not made again, and an interrupted training goes on where it was
# DRAWER   examples/draw_micrographs, which draws the third kind [default: beside EPICKER in examples/]
#
# Every stage has the same budget, which is the number of crops shown to the network, exemplars included.
set -euo pipefail

[ $# -ge 3 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }
epicker=$(realpath "$1") data=$(realpath "$2") output=$3
drawer=$(realpath "${4:-$(dirname "$epicker")/examples/draw_micrographs}")
mkdir -p "$output"
cd "$output"

declare -A diameter=([A]=126 [B]=190 [C]=160) # angstrom
declare -A kind=([A]=apoferritin [B]=beta-galactosidase [C]=crosses)
crops=${CROPS:-800} # of a stage
batch=4
shared=(--frame 512 --input_res 256 --batch_size $batch --lr 1e-3 --train_pct 100 --val_pct 0 --test_pct 0 --threads 1)

link() { # link SET FOLDER: the first four micrographs to train, the others to judge
    mkdir -p "$1/train" "$1/test"
    local part=train count=0 file
    for file in "$data/$2"/*.mrc; do
        [ $count -lt 4 ] || part=test
        ln -sf "$file" "${file%.mrc}.star" "$1/$part/"
        count=$((count + 1))
    done
}

draw() { # draw SEED FOLDER
    [ -e "$2/cross_$1_003.mrc" ] || "$drawer" cross "$2" --seed "$1" --count 4 --diameter 80 --contrast 0.6 --angpix 2
}

learn() { # learn NAME SET EPOCHS OPTION...
    local name=$1 set=$2 epochs=$3
    shift 3
    [ ! -e "$name/done" ] || return 0
    local resume=()
    [ ! -e "$name/model_last.pth" ] || resume=(--resume)
    mkdir -p "$name"
    echo "$name: $epochs epochs" >&2
    TIMEFORMAT='%U'
    { time nice -n 15 "$epicker" train --data "$set" --label "$set" --exp_id "$name" --num_epoch "$epochs" \
        "${shared[@]}" "${resume[@]}" "$@" >>"$name/told" 2>&1; } 2>>"$name/cpu_seconds"
    touch "$name/done"
}

judge() { # judge NAME: AP on every kind
    local set
    for set in A B C; do
        [ ! -e "$1/eval_$set.json" ] || continue
        "$epicker" eval --data "$set/test" --label "$set/test" --load_model "$1/model_last.safetensors" --frame 512 \
            --diameter "${diameter[$set]}" --bootstrap 0 --threads 1 --json 2>/dev/null | tail -n 1 >eval.part
        mv eval.part "$1/eval_$set.json"
    done
}

ap() { # ap NAME SET: in points
    sed -E 's/.*"ap":([0-9.]+).*/\1/' "$1/eval_$2.json" | awk '{ printf "%.1f", 100 * $1 }'
}

row() { # row WORDS NAME
    echo "| $1 | $(ap "$2" A) | $(ap "$2" B) | $(ap "$2" C) | $(awk '{ sum += $1 } END { printf "%.0f", sum }' "$2/cpu_seconds") |"
}

link A apoferritin-10146
link B betagal-10017
draw 1 C/train
draw 2 C/test
whole=$((crops / 4)) # epochs of four micrographs, in one step
# With --continual a step has three new crops and an exemplar, so the four micrographs make two steps of 4 and 2 crops.
shared_with_exemplars=$((crops / 6))
for order in "A B C" "C B A"; do
    read -r first second third <<<"$order"
    run=$first$second$third
    # The first stage is the same for both: there is nothing to forget yet.
    learn "$run-1" "$first/train" $whole --width 0.25 --continual --output_exemplar "$run-exemplars-1"
    learn "$run-2-continual" "$second/train" $shared_with_exemplars --load_model "$run-1/model_last.pth" \
        --continual --replay_share 0.25 --load_exemplar "$run-exemplars-1" --output_exemplar "$run-exemplars-2"
    learn "$run-3-continual" "$third/train" $shared_with_exemplars --load_model "$run-2-continual/model_last.pth" \
        --continual --replay_share 0.25 --load_exemplar "$run-exemplars-2" --output_exemplar "$run-exemplars-3"
    learn "$run-2-plain" "$second/train" $whole --load_model "$run-1/model_last.pth"
    learn "$run-3-plain" "$third/train" $whole --load_model "$run-2-plain/model_last.pth"
    for stage in 1 2-plain 2-continual 3-plain 3-continual; do judge "$run-$stage"; done
done
mkdir -p all
ln -sf "$PWD"/{A,B,C}/train/* all/
learn joint all $whole --width 0.25
judge joint

{
    echo "| learnt | A: ${kind[A]} | B: ${kind[B]} | C: ${kind[C]} | CPU seconds of the stage |"
    echo "|---|---|---|---|---|"
    for run in ABC CBA; do
        first=${run:0:1} second=${run:1:1} third=${run:2:1}
        row "$first" "$run-1"
        for how in plain continual; do
            row "$first, $second ($how)" "$run-2-$how"
            row "$first, $second, $third ($how)" "$run-3-$how"
        done
    done
    row "A, B, C at once, three budgets" joint
    echo
    for run in ABC CBA; do
        first=${run:0:1} third=${run:2:1}
        before=$(ap "$run-1" "$first")
        for how in plain continual; do
            echo "$run, $how: $first forgotten by $(awk "BEGIN { printf \"%.1f\", $before - $(ap "$run-3-$how" "$first") }") points," \
                "newest $third $(ap "$run-3-$how" "$third")"
        done
    done
} | tee table.md
