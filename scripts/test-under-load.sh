#!/usr/bin/env bash
# Shows that no test fails by chance: clones this commit into an empty folder and runs the README's test command there
# again and again, while two other processes keep both cores of a small machine busy. Prints one line for each run and
# says at the end how many were green; the exit status is 0 if all were.
#
# Usage: scripts/test-under-load.sh [RUNS]     10 runs unless told otherwise, each of some ten minutes or more
#   LOAD=4                       this number of busy processes instead of two
#   KEEP=/some/folder            where the clone and the logs of runs that failed go; without it they are removed, logs
#                                of failed runs excepted, which are printed
# Changes that are not committed are not in the clone, so they are not tested.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-10} load=${LOAD:-2}
case $runs in '' | *[!0-9]* | 0) echo "usage: scripts/test-under-load.sh [RUNS], at least one" >&2; exit 2 ;; esac
# The second command of the README: it is what a newcomer types.
command=$(grep --max-count=1 '^cargo test' README.md)
[ -n "$command" ] || { echo "README.md has no line that begins with 'cargo test'" >&2; exit 2; }
[ -z "$(git status --porcelain --untracked-files=no)" ] || echo "changes that are not committed are not tested" >&2

folder=${KEEP:-$(mktemp -d)}
mkdir -p "$folder"
busy=()
finish() {
    [ "${#busy[@]}" = 0 ] || kill "${busy[@]}" 2>/dev/null || true
    [ -n "${KEEP:-}" ] || rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

git clone --quiet --no-hardlinks . "$folder/clone"
cd "$folder/clone"
# The clone is built in its own folder, so nothing that was built in the original folder is used.
unset CARGO_TARGET_DIR
echo "commit $(git rev-parse --short HEAD), '$command', $runs runs, $load busy processes beside them"
for _ in $(seq "$load"); do
    sh -c 'while :; do :; done' &
    busy+=("$!")
done

green=0
for run in $(seq "$runs"); do
    log=$folder/run-$run.log start=$SECONDS
    if bash -c "$command" >"$log" 2>&1; then
        green=$((green + 1)) word=green
    else
        word=RED
    fi
    passed=$(sed -n 's/^test result:.* \([0-9]*\) passed.*/\1/p' "$log" | awk '{ sum += $1 } END { print sum + 0 }')
    printf 'run %d of %d: %s, %d tests passed, %d s\n' "$run" "$runs" "$word" "$passed" $((SECONDS - start))
    if [ "$word" = RED ]; then
        grep -E '^test .* FAILED$|panicked at|^error' "$log" | sed 's/^/    /' || tail -5 "$log"
    elif [ -z "${KEEP:-}" ]; then
        rm "$log"
    fi
done
echo "$green of $runs runs were green"
[ "$green" = "$runs" ]
