#!/usr/bin/env bash
# Measures this machine and keeps what it measured: benches/runs/DATE-MACHINE/ gets numbers.csv, with the time of every
# single run, and README.md, which says by which command, commit and machine they came about. Then it prints the medians
# beside those of the last run that is kept for the same machine. Half an hour on two cores; the machine should do
# nothing else meanwhile, and the load at the start is written down.
#
# Usage: scripts/bench.sh [--tiny] [NAME...]
#   --tiny         small images and one run of each: shows in a minute or two that everything runs; keeps nothing
#   NAME           only these benches: ops (every op, forward and backward) or stages (network, pre-processing, whole
#                  way, training step)
#   MACHINE=name   what the machine is called, instead of its processor and the number of its cores
#   THREADS=2      threads, instead of one for each core
set -euo pipefail
cd "$(dirname "$0")/.."
tiny= names=()
for word in "$@"; do
    case $word in
    --tiny) tiny=--tiny ;;
    ops | stages) names+=("$word") ;;
    *) echo "usage: scripts/bench.sh [--tiny] [ops] [stages]" >&2; exit 2 ;;
    esac
done
[ "${#names[@]}" -gt 0 ] || names=(ops stages)

processor=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -1)
[ -n "$processor" ] || processor=$(sysctl -n machdep.cpu.brand_string 2>/dev/null || uname -m)
cores=$(getconf _NPROCESSORS_ONLN)
short=$(echo "$processor" | tr '[:upper:]' '[:lower:]' | sed 's/([a-z]*)//g; s/@.*//; s/\(cpu\|processor\|intel\|amd\)//g; s/[^a-z0-9]\{1,\}/-/g; s/^-//; s/-$//')
machine=${MACHINE:-$short-$cores-cores}
folder=benches/runs/$(date +%F)-$machine
[ -z "$tiny" ] || folder=$(mktemp -d)
export RAYON_NUM_THREADS=${THREADS:-$cores}

commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- src kernels benches Cargo.lock build.rs build || commit="$commit with changes"
load=$(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || uptime | sed 's/.*averages*: //')
mkdir -p "$folder"
cargo build --quiet --release --benches
: >"$folder/new.csv"
for name in "${names[@]}"; do
    cargo bench --quiet --bench "$name" -- $tiny --csv "$folder/new.csv"
done
# A run that measures some benches alone keeps the other numbers of the day.
echo 'bench,case,unit,median,runs' >"$folder/numbers.tmp"
awk -F, -v OFS=, 'FNR == NR { new[$1 FS $2]; next } FNR > 1 && !(($1 FS $2) in new)' \
    "$folder/new.csv" "$folder/numbers.csv" >>"$folder/numbers.tmp" 2>/dev/null || true
cat "$folder/new.csv" >>"$folder/numbers.tmp"
rm "$folder/new.csv"
mv "$folder/numbers.tmp" "$folder/numbers.csv"
cat >"$folder/README.md" <<END
# $(date +%F), $processor, $cores cores
| | |
|---|---|
| command | \`scripts/bench.sh${*:+ $*}\` |
| commit | $commit |
| threads | $RAYON_NUM_THREADS |
| load when it began (1, 5 and 15 minutes) | $load |
| memory | $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo 2>/dev/null) |
| system | $(uname -sr) |
| compiler | $(rustc --version) |

\`numbers.csv\` has the median and every single run. Absolute times of a virtual machine drift from day to day: compare two
runs of one machine, taken one after the other.
END

last=$(find benches/runs -mindepth 2 -name numbers.csv -path "*-$machine/*" ! -path "$folder/*" | sort | tail -1)
if [ -z "$last" ]; then
    echo "no earlier run of $machine is kept, so here are the new numbers alone"
    last=/dev/null
else
    echo "last: $(dirname "$last")"
fi
echo "now:  $folder"
awk -F, '
    FNR == 1 { next }
    FILENAME == ARGV[1] { last[$1 FS $2] = $4; next }
    {
        before = last[$1 FS $2]
        if (before == "") printf "%-14s %-44s %12s %12.3f %s\n", $1, $2, "-", $4, $3
        else printf "%-14s %-44s %12.3f %12.3f %s  %.2f times as long\n", $1, $2, before, $4, $3, $4 / before
    }
    BEGIN { printf "%-14s %-44s %12s %12s\n", "bench", "case", "last", "now" }
' "$last" "$folder/numbers.csv"
[ -z "$tiny" ] || rm -r "$folder"
