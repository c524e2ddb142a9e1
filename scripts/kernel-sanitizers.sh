#!/usr/bin/env bash
# Runs every op's kernels on the host under the address sanitizer, and under the thread sanitizer, to which each thread of
# a kernel is a thread: a missing barrier is a race, reported with both lines. Needs g++ with its sanitizers, x86-64, and
# minutes: every barrier costs microseconds there. Usage: scripts/kernel-sanitizers.sh [TEST...], such as forward::conv.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=("$@")
[ "${#tests[@]}" -gt 0 ] || tests=(max_pool relu up_conv batch_norm heat_map gather adam map losses)

for kind in address thread; do
    echo "== $kind sanitizer"
    binary=$(HOSTGPU_SANITIZE=$kind cargo test --test gpu_ops --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
    library=$(g++ -print-file-name="lib${kind:0:1}san.so")
    for name in "${tests[@]}"; do
        # Leaks are not looked for: the test's own process ends with threads still there. The program around the kernels is
        # not instrumented, so what it does with memory is not looked at either.
        ASAN_OPTIONS=detect_leaks=0:handle_segv=0:detect_stack_use_after_return=0 \
            TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0 \
            LD_PRELOAD=$library setarch -R "$binary" --test-threads=1 "$name"
    done
done
echo "no sanitizer reported anything; building the tests again as they were"
cargo test --test gpu_ops --no-run
