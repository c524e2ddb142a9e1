#!/usr/bin/env bash
# Kills `epicker pick` and `epicker train` at random moments, by SIGKILL and by SIGTERM, lets each go on (`--skip-done`,
# `--resume`), and checks that no file is torn, that no finished work is lost, and that the result at the end is that of an
# unbroken run, byte for byte.
# Usage: EPICKER=target/release/epicker scripts/kill-study.sh [KILLS [SEED]]; without them, 1000 kills and seed 1.
# The last line counts the kills and the faults; if there is a fault, its folder is kept and the exit status is 1.
set -uo pipefail
E=$(realpath "${EPICKER:?the epicker binary to be killed}")
kills=${1:-1000} seed=${2:-1}
RANDOM=$seed
work=$(mktemp -d)
faults=0 done_kills=0

fault() {
    faults=$((faults + 1))
    echo "FAULT after $done_kills kills: $*"
    cp -r "$work/$side" "$work/fault-$faults-$side" 2>/dev/null
}

# True if a status is that of a run that came to its end. A training ends with 1 if its result is of little use, and that is to
# be expected of a training that takes two seconds.
is_end() { [ "$1" = 0 ] || { [ $side = train ] && [ "$1" = 1 ]; }; }

# Runs `command` to its end; sets `microseconds`.
unbroken() {
    local begin=${EPOCHREALTIME/./}
    "${command[@]}" >"$work/log" 2>&1
    is_end $? || { cat "$work/log"; echo "an unbroken run fails: ${command[*]}"; exit 2; }
    microseconds=$((${EPOCHREALTIME/./} - begin))
}

# Runs `command` and kills it after a random part of the given time. Sets `status`.
killed() {
    local longest=$1 signal=KILL
    [ $((RANDOM % 2)) = 0 ] || signal=TERM
    local delay=$(((RANDOM * 32768 + RANDOM) % longest))
    "${command[@]}" >"$work/log" 2>&1 &
    local process=$!
    sleep "$(printf '%d.%06d' $((delay / 1000000)) $((delay % 1000000)))"
    kill -s $signal $process 2>/dev/null && done_kills=$((done_kills + 1))
    wait $process 2>/dev/null
    status=$?
    case $signal$status in
        KILL137 | TERM143) ;;
        *) is_end $status || fault "SIG$signal ended it with status $status: $(tail -1 "$work/log")" ;;
    esac
    ! grep -q panicked "$work/log" || fault "$(grep panicked "$work/log")"
}

# Every file of a folder with its SHA-256, except files whose lines tell of times and restarts.
contents() { (cd "$1" && find . -type f ! -path './logs/*' ! -path './runs/*' ! -name opt.txt ! -name loss.svg -exec sha256sum {} + | sort -k2); }

# ---- pick: twelve micrographs of 512 x 512
pick() {
    command=("$E" pick --data "$work/mics" --load_model "$work/tiny.safetensors" --frame 256 --output "$work/pick" --gpus -1 --threads 2
        --skip-done)
}

# Every file that is there must be whole and as in the unbroken run, and no file that was there before may be gone.
check_pick() {
    local name
    for name in "$work"/pick/*.thi "$work"/pick/candidates/*.star; do
        [ -e "$name" ] || continue
        case $name in
            # This list has only lines of the unbroken run, one for each micrograph that is done.
            */merge_results.thi) [ -z "$(comm -23 <(sort "$name") <(sort "$work/whole-pick/merge_results.thi"))" ] || fault "$name has other lines" ;;
            *) cmp -s "$name" "$work/whole-pick/${name#"$work"/pick/}" || fault "$name is torn" ;;
        esac
    done
    local now
    now=$(cd "$work/pick" 2>/dev/null && ls ./*.thi 2>/dev/null)
    [ -z "$(comm -23 <(echo "$before") <(echo "$now"))" ] || fault "lost of $before: there is $now"
    before=$now
}

# ---- train: a quarter of the usual width, eight micrographs, three epochs
train() {
    command=("$E" train --data "$work/learn" --label "$work/learn" --exp_id "$work/train" --frame 128 --input_res 64 --width 0.25
        --batch_size 2 --lr 1e-3 --lr_step 70 --num_epochs 3 --train_pct 75 --val_pct 25 --test_pct 0 --particle_size 4 --gpus -1
        --threads 2 --seed 3)
    # The best model is written before the last one, so it may be there alone. Before the very first checkpoint is whole,
    # there is nothing to go on from.
    if [ -e "$work/train/model_last.pth" ] || [ -e "$work/train/model_best.pth" ]; then
        command+=(--resume)
    elif compgen -G "$work/train/model_*" >/dev/null; then
        command+=(--overwrite)
    fi
}

# The epoch of a checkpoint that can be read as a whole; the convert command reads all of it.
epoch_of() { "$E" convert "$1" 2>>"$work/log" | sed -n 's/.*epoch[^0-9]*\([0-9]*\).*/\1/p' | head -1; }

check_train() {
    local name now=0
    for name in "$work"/train/model_*.{pth,safetensors}; do
        [ ! -e "$name" ] || "$E" convert "$name" >/dev/null 2>&1 || fault "$name cannot be read"
    done
    [ ! -e "$work/train/model_last.pth" ] || now=$(epoch_of "$work/train/model_last.pth")
    [ "${now:-0}" -ge "${before:-0}" ] || fault "epoch $now after epoch $before"
    before=${now:-0}
}

# ---- the micrographs to work on, and the unbroken runs
side=pick before=
"$E" simulate --output "$work/simulated" --preset particle --diameter 60 --count 20 --size 512 --seed 5 --threads 2 >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 2; }
mkdir "$work/mics" "$work/learn"
micrographs=("$work"/simulated/*.mrc)
cp "${micrographs[@]:0:12}" "$work/mics"
cp "${micrographs[@]:12:8}" "$work/learn"
for name in "$work"/learn/*.mrc; do cp "$work/simulated/truth/thi/$(basename "${name%.mrc}").thi" "$work/learn"; done
cp "$(dirname "$0")/../tests/golden/models/tiny.safetensors" "$work/tiny.safetensors"
declare -A time_of
for side in pick train; do
    $side
    unbroken
    time_of[$side]=$microseconds
    mv "$work/$side" "$work/whole-$side"
    echo "an unbroken $side takes $((microseconds / 1000)) ms"
done

# ---- killing: when a run gets to its end, its result is compared, and another run begins
rounds=0
while [ $done_kills -lt "$kills" ]; do
    for side in pick train; do
        rm -rf "${work:?}/$side"
        before= status=none
        while ! is_end $status && [ $done_kills -lt "$kills" ]; do
            $side
            killed "${time_of[$side]}"
            check_$side
        done
        # There were enough kills, so the last run may go on to its end, too.
        if ! is_end $status; then
            $side
            "${command[@]}" >"$work/log" 2>&1
            is_end $? || fault "going on fails: $(tail -1 "$work/log")"
            check_$side
        fi
        difference=$(diff <(contents "$work/whole-$side") <(contents "$work/$side")) || fault "the end is not that of an unbroken run: $difference"
        rounds=$((rounds + 1))
    done
done
echo "$done_kills kills, $rounds runs to the end, $faults faults"
if [ $faults = 0 ]; then rm -rf "$work"; else echo "what the faults left: $work"; exit 1; fi
