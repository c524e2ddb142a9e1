#!/usr/bin/env bash
# Runs all kernels on the host, those of the ops and those around the network, under the address sanitizer and under the
# thread sanitizer. The latter sees each thread of a kernel as a thread of its own, so it reports a missing barrier as a
# race, with both lines. The script needs g++ with its sanitizers, x86-64, and some minutes (docs/gpu.md).
# Usage: scripts/kernel-sanitizers.sh [TEST...]; a TEST such as forward::conv runs only some ops.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=("$@")
[ "${#tests[@]}" -gt 0 ] || tests=(ops:: stages::)

# Leaks are not looked for, because the test's own process ends while threads are still there. The program around the
# kernels is not instrumented, so its use of memory is not examined either.
under() {
    local kind=$1
    shift
    ASAN_OPTIONS=detect_leaks=0:handle_segv=0:detect_stack_use_after_return=0 \
        TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0 \
        LD_PRELOAD=$(g++ -print-file-name="lib${kind:0:1}san.so") setarch -R "$@"
}

for kind in address thread; do
    echo "== $kind sanitizer"
    program=$(HOSTGPU_SANITIZE=$kind cargo test --test gpu --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
    # The sanitizer must report the fault that is planted for it, and nothing where there is no fault.
    planted=planted_overrun words="AddressSanitizer: heap-buffer-overflow"
    [ "$kind" = address ] || planted=planted_race words="ThreadSanitizer: data race"
    report=$(under "$kind" "$program" --ignored --exact "faults::$planted" 2>&1) && { echo "$planted: nothing was reported"; exit 1; }
    grep --max-count=1 "$words" <<< "$report" || { echo "$planted: no '$words' in:"; echo "$report"; exit 1; }
    under "$kind" "$program" --ignored --exact faults::sound_twins
    for name in "${tests[@]}"; do
        # Each test runs in a process of its own, so that one test's remains are not taken for another's fault.
        for test in $("$program" --list "$name" | sed -n 's/^\(.*\): test$/\1/p'); do
            under "$kind" "$program" --test-threads=1 --exact "$test"
        done
    done
done
echo "no sanitizer reported anything but the planted faults; building the tests again as they were"
cargo test --test gpu --no-run
