#!/usr/bin/env bash
# Examines a GPU with an epicker program that was built elsewhere, so it needs no cargo.
#   scripts/gpu-check.sh EPICKER MODEL DATA OUTPUT [GPU]
# MODEL: a .pth or .safetensors; DATA: micrographs with coordinate files of the same names beside them; OUTPUT: a folder for the
# results; GPU: its number [0]. The script prints what it finds. Its exit status is 1 if something differs from the CPU by more than
# is allowed: an op (epicker doctor), picks (centres 0.5 pixels, scores 1e-3), or the losses of three epochs (2 %).
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
epicker=$(realpath "$1") model=$(realpath "$2") data=$(realpath "$3") out=$4 gpu=${5:-0}
mkdir -p "$out"
out=$(realpath "$out")
faults=0
fault() { echo "FAULT: $*"; faults=$((faults + 1)); }
head() { printf '\n== %s\n' "$*"; }

head "machine"
date -u +%Y-%m-%d
"$epicker" --version
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
grep -m 1 'model name' /proc/cpuinfo || true

head "every op against its f64 reference (epicker doctor --gpus $gpu)"
"$epicker" doctor --gpus "$gpu" || fault "epicker doctor"

head "picks: GPU against CPU, the kernels' convolutions and cuDNN's"
pick() { "$epicker" pick --data "$data" --load_model "$model" --gpus "$1" --conv "$2" --output "$out/picks$1-$2" --edge 0 | tail -n 2; }
pick -1 native
pick "$gpu" native
pick "$gpu" cudnn
# Every peak of the CPU above 0.05 must have a peak of the GPU, and the reverse; candidates hold places and scores with all digits.
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
for conv in native cudnn; do
    for candidates in "$out/picks-1-native/candidates"/*.star; do
        name=$(basename "$candidates")
        compare "$candidates" "$out/picks$gpu-$conv/candidates/$name" || fault "picks of ${name%.star}, convolutions $conv"
    done
done

head "three epochs of training: GPU against CPU"
for device in -1 "$gpu"; do
    rm -rf "$out/train$device"
    "$epicker" train --data "$data" --label "$data" --exp_id "$out/train$device" --gpus "$device" --conv native --width 0.25 --frame 512 \
        --batch_size 2 --lr 1e-3 --num_epochs 3 --train_pct 100 > "$out/train$device.txt" 2>&1 ||
        fault "training on device $device: $(tail -n 1 "$out/train$device.txt")"
done
losses() { sed -n 's/.*"event":"epoch".*"loss":\([0-9.e-]*\).*/\1/p' "$1"; }
paste <(losses "$out/train-1/logs/log.jsonl") <(losses "$out/train$gpu/logs/log.jsonl") | awk '
    { d = ($1 - $2) / $1; if (d < 0) d = -d; printf "epoch %d: %s on the CPU, %s on the GPU, %.2f %%\n", NR, $1, $2, 100 * d; if (d > 0.02) bad = 1 }
    END { exit NR < 3 || bad }' || fault "losses"

if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck initcheck; do
        head "compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$epicker" doctor --gpus "$gpu" > "$out/$tool.txt" 2>&1 ||
            fault "$tool: $(grep -m 1 '=========' "$out/$tool.txt")"
        tail -n 1 "$out/$tool.txt"
    done
else
    head "compute-sanitizer is not installed"
fi

head "times"
for conv in native cudnn; do
    echo "convolutions: $conv"
    "$epicker" bench --load_model "$model" --gpus "$gpu" --conv "$conv" --data "$data"
done
"$epicker" bench --load_model "$model" --gpus -1 --data "$data"

head "$faults faults"
[ "$faults" -eq 0 ]
