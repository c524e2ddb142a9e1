#!/usr/bin/env bash
# Examines a GPU in less than ten minutes, cheapest first, with nothing but an epicker program (23 MB stripped): no cargo, no data.
#   scripts/gpu-check.sh EPICKER OUTPUT [GPU]
# EPICKER: the program; OUTPUT: a folder for everything that is made; GPU: its number [0].
# It ends with a table and with OUTPUT/gpu-check.json, both for docs/gpu.md. Its exit status is 1 if something is not as it should be:
# an op (epicker doctor), a pick that is not the CPU's (centres 0.5 pixels, scores 1e-3), the losses of three epochs (2 %).
#   MINUTES=9      what does not fit into this time is left out, and the table says so
#   SIZE=tiny      small micrographs and networks, for a GPU that a processor stands for (tests/libcuda/ptx.rs)
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
epicker=$(realpath "$1") out=$2 gpu=${3:-0} minutes=${MINUTES:-9} size=${SIZE:-full}
mkdir -p "$out"
out=$(realpath "$out")
end=$((SECONDS + 60 * minutes))
# What is kept of a GPU between runs would hide its first examination.
export XDG_CACHE_HOME=$out/cache
case $size in
full) sides=(4096 2048,1536) micrographs=20 frames=(1024 576) runs=20 crop=512 pick_frame=() ;;
tiny) sides=(384 320,256) micrographs=4 frames=(64 64) runs=1 crop=64 pick_frame=(--frame 160) ;;
*) echo "SIZE: full or tiny" >&2; exit 2 ;;
esac

faults=0
table=() # of lines: step, right, WRONG or left out, seconds, what was found
parts=() # of the JSON object
quoted() { sed 's/[\\"]/\\&/g; s/\t/ /g' <<< "$1" | tr '\n' ' ' | sed 's/ *$//; s/^/"/; s/$/"/'; }
# step NAME LIMIT COMMAND...: what the command writes is told. Its last line is its result, for the table; what it leaves in
# $out/NAME.json goes into the JSON. It ends with 3 if there is nothing to be examined.
step() {
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS state=right found report=null
    shift 2
    printf '\n== %s\n' "$name"
    if [ "$left" -lt 5 ]; then
        state="left out" found="no time was left"
    else
        [ "$left" -lt "$limit" ] && limit=$left
        rm -f "$out/$name.json"
        # A subshell, so that a step that fails does not end the script; a watch, so that one that hangs does.
        ( set -euo pipefail; "$@" ) > "$out/$name.txt" 2>&1 &
        local work=$!
        ( sleep "$limit"; pkill -P "$work"; kill "$work" ) > /dev/null 2>&1 &
        local watch=$!
        local status=0
        wait "$work" || status=$?
        case $status in 0) ;; 3) state="left out" ;; *) state=WRONG ;; esac
        pkill -P "$watch" 2> /dev/null || true
        kill "$watch" 2> /dev/null || true
        wait "$watch" 2> /dev/null || true
        [ "$state" != WRONG ] || faults=$((faults + 1))
        [ $((SECONDS - start)) -lt "$limit" ] || echo "stopped after $limit s" >> "$out/$name.txt"
        cat "$out/$name.txt"
        found=$(tail -n 1 "$out/$name.txt")
        [ -s "$out/$name.json" ] && report=$(cat "$out/$name.json")
    fi
    table+=("$(printf '%-24s %-9s %5d s  %s' "$name" "$state" $((SECONDS - start)) "$found")")
    parts+=("$(quoted "$name"):{\"state\":\"$state\",\"seconds\":$((SECONDS - start)),\"found\":$(quoted "$found"),\"report\":$report}")
}

machine() {
    date -u +%Y-%m-%d
    grep -m 1 'model name' /proc/cpuinfo || true
    command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    "$epicker" --version
}

# Every op, forward and backward, and what surrounds the network, against references in f64: in the form that the driver takes first,
# or in another one.
doctor() {
    local name=$1 status=0
    shift
    "$epicker" doctor --gpus "$gpu" "$@" --json > "$out/$name.json" || status=$?
    # The report is one object; names and numbers of it are enough for the log.
    tr '{' '\n' < "$out/$name.json" | sed -n 's/.*"case":"\([^"]*\)".*"op":"\([^"]*\)".*/\2: \1/p'
    sed -n 's/.*"kernels":"\([^"]*\)","name":"\([^"]*\)".*/\2, kernels as \1/p' "$out/$name.json"
    [ "$status" = 0 ] || { grep -o '"faults":\[[^]]*\]' "$out/$name.json" || true; return "$status"; }
}

simulate() {
    local count=$((micrographs / 2)) first=1
    for side in "${sides[@]}"; do
        "$epicker" simulate --output "$out/data" --preset easy --count "$count" --size "$side" --first "$first" --quiet
        first=$((first + count))
    done
    # The two sizes in turn, so that memory grows and graphs are made anew in the middle of a batch.
    for ((i = 0; i < count; i++)); do
        for half in 0 1; do ls "$out"/data/*.mrc | sed -n "$((half * count + i + 1))p"; done
    done > "$out/list.txt"
    echo "$(wc -l < "$out/list.txt") micrographs of ${sides[*]} pixels"
}

# Every peak of one device above 0.05 must have a peak of the other, and the reverse. Candidates hold places and scores with all digits.
compare() {
    awk -v file="$(basename "$1")" '
        FNR == 1 { which++ }
        /^[ 0-9.]+$/ && NF >= 3 && $3 > 0.05 { n[which]++; x[which, n[which]] = $1; y[which, n[which]] = $2; s[which, n[which]] = $3 }
        END {
            for (a = 1; a <= 2; a++) {
                b = 3 - a
                for (i = 1; i <= n[a]; i++) {
                    best = 1e9
                    for (j = 1; j <= n[b]; j++) {
                        d = sqrt((x[a, i] - x[b, j]) ^ 2 + (y[a, i] - y[b, j]) ^ 2)
                        if (d < best) { best = d; at = j }
                    }
                    # A peak that lies at the threshold may be on the other side of it on the other device.
                    if (s[a, i] < 0.052 && best > 0.5) continue
                    if (best > far) far = best
                    e = s[a, i] - s[b, at]; if (e < 0) e = -e
                    if (e > off) off = e
                }
            }
            printf "%s: %d and %d peaks above 0.05, farthest %.3f pixels, scores %.1e\n", file, n[1], n[2], far, off
            exit !(far <= 0.5 && off <= 1e-3)
        }' "$1" "$2"
}
pick() {
    rm -rf "$out/picks$1-$2"
    "$epicker" pick --data "$out/list.txt" --load_model particle --gpus "$1" --conv "$2" --output "$out/picks$1-$2" --edge 0 \
        --diameter 150 "${pick_frame[@]}" | tail -n 2
}
picks_on_cpu() { pick -1 native; }
# What the doctor said of cuDNN.
needs_cudnn() {
    [ "$1" = cudnn ] && grep -q '"cudnn":"not used' "$out/doctor.json" || return 0
    echo "no cuDNN is used here"
    exit 3
}
picks() { # CONV
    needs_cudnn "$1"
    local status=0 compared=0
    pick "$gpu" "$1"
    for candidates in "$out/picks-1-native/candidates"/*.star; do
        compare "$candidates" "$out/picks$gpu-$1/candidates/$(basename "$candidates")" || status=1
        compared=$((compared + 1))
    done
    echo "$compared micrographs compared with the CPU's, convolutions $1"
    return "$status"
}

bench() { # NAME CONV OPTIONS...
    local name=$1 conv=$2
    shift 2
    needs_cudnn "$conv"
    set -- --conv "$conv" "$@"
    "$epicker" bench --gpus "$gpu" --runs "$runs" "$@" --json > "$out/$name.json"
    "$epicker" bench --gpus "$gpu" --runs "$runs" "$@"
    sed -n 's/.*"network_ms":\([0-9.]*\).*/\1 ms for network and peaks/p' "$out/$name.json"
}

training() {
    for device in -1 "$gpu"; do
        rm -rf "$out/train$device"
        "$epicker" train --data "$out/data" --label "$out/data/truth/star" --exp_id "$out/train$device" --gpus "$device" --conv native \
            --from-scratch --width 0.25 --frame $((2 * crop)) --input_res "$crop" --batch_size 2 --lr 2e-4 --lr_step 9 --num_epochs 3 \
            --num_iters 4 --train_pct 100 --test_pct 0 --quiet
    done
    losses() { sed -n 's/.*"event":"epoch".*"loss":\([0-9.e-]*\).*/\1/p' "$1"; }
    paste <(losses "$out/train-1/logs/log.jsonl") <(losses "$out/train$gpu/logs/log.jsonl") | awk '
        { d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d; printf "epoch %d: %s on the CPU, %s on the GPU\n", NR, $1, $2 }
        END { printf "%d epochs, losses differ by at most %.3f %%\n", NR, 100 * worst; exit NR < 3 || worst > 0.02 }'
}

sanitizer() { # TOOL
    command -v compute-sanitizer > /dev/null || { echo "compute-sanitizer is not installed"; exit 3; }
    compute-sanitizer --tool "$1" --error-exitcode 9 "$epicker" doctor --gpus "$gpu" > "$out/$1.log" 2>&1 || {
        grep -m 3 '=========' "$out/$1.log" || true
        return 1
    }
    tail -n 1 "$out/$1.log"
}

step machine 20 machine
step doctor 120 doctor doctor
step doctor-ptx 120 doctor doctor-ptx --form ptx
step micrographs 120 simulate
step picks-on-cpu 180 picks_on_cpu
step picks 60 picks native
step picks-cudnn 60 picks cudnn
step bench-full 60 bench bench-full native --frame "${frames[0]}"
step bench-full-cudnn 60 bench bench-full-cudnn cudnn --frame "${frames[0]}"
step bench-particle 60 bench bench-particle native --load_model particle --frame "${frames[1]}" --data "$out/list.txt"
step bench-particle-cudnn 60 bench bench-particle-cudnn cudnn --load_model particle --frame "${frames[1]}"
step training 120 training
step memcheck 120 sanitizer memcheck
step racecheck 120 sanitizer racecheck

{
    printf '{"date":"%s","gpu":%s,"size":"%s","faults":%d,"steps":{' "$(date -u +%Y-%m-%d)" "$gpu" "$size" "$faults"
    IFS=,
    printf '%s}}\n' "${parts[*]}"
} > "$out/gpu-check.json"
printf '\n== %d faults in %d s; %s\n' "$faults" "$SECONDS" "$out/gpu-check.json"
printf '%s\n' "${table[@]}" | tee "$out/gpu-check.txt"
[ "$faults" = 0 ]
