#!/usr/bin/env bash
# Measures this machine and keeps what it measured: benches/runs/DATE-MACHINE/ gets numbers.csv, with the time of every
# single run, and README.md, which says with which command and commit and on which machine they were measured. Then it prints
# the medians beside those of the last run that is kept for the same machine. This takes five minutes on two cores after the
# build; the machine should do nothing else meanwhile, and the load at the start is written down.
#
# Usage: scripts/bench.sh [--tiny] [NAME...]
#   --tiny         small images and one run of each: shows in a minute or two that everything runs; keeps nothing
#   NAME           only these benches: ops (every op, forward and backward), network (full and narrow), pick (reading with
#                  pre-processing, network, writing, and the whole way of a micrograph) or train (a step, full and narrow)
#   MACHINE=name   the name for this machine; without it, its processor and the number of its cores
#   THREADS=2      the number of threads; without it, one for each core
set -euo pipefail
cd "$(dirname "$0")/.."
tiny= names=()
for word in "$@"; do
    case $word in
    --tiny) tiny=--tiny ;;
    ops | network | pick | train) names+=("$word") ;;
    *) echo "usage: scripts/bench.sh [--tiny] [ops] [network] [pick] [train]" >&2; exit 2 ;;
    esac
done
[ "${#names[@]}" -gt 0 ] || names=(ops network pick train)

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
cargo build --quiet --release --bins --benches --example formula_model --example train_step
program=${CARGO_TARGET_DIR:-target}/release/epicker examples=${CARGO_TARGET_DIR:-target}/release/examples
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
runs=5 frame=1024 side=4096 count=4 batch_side=512 steps=4
[ -z "$tiny" ] || runs=1 frame=256 side=512 count=2 batch_side=128 steps=2

# row BENCH CASE UNIT: writes the numbers on standard input, one on each line, as one line of the table, with their median.
row() {
    sort -g | awk -v name="$1,$2,$3" '{ values[NR] = $1; all = all (NR > 1 ? " " : "") $1 }
        END { if (NR == 0) exit 1; print name "," values[int((NR + 1) / 2)] "," all }' >>"$folder/new.csv"
}
number() { sed -n "s/.*\"$1\":\([0-9.e-]*\).*/\1/p"; }

: >"$folder/new.csv"
"$examples/formula_model" "$scratch/full.safetensors" >/dev/null
for name in "${names[@]}"; do
    case $name in
    ops) cargo bench --quiet --bench ops -- $tiny --csv "$folder/new.csv" ;;
    network)
        for width in full narrow; do
            model=particle
            [ "$width" = narrow ] || model=$scratch/full.safetensors
            for _ in $(seq "$runs"); do
                "$program" bench --gpus -1 --load_model "$model" --frame "$frame" --runs 1 --json | number network_ms
            done | row network "$width at $frame" ms
        done
        ;;
    pick)
        "$program" simulate --preset easy --count "$count" --size "$side" --half --output "$scratch/mics" >/dev/null
        for width in full narrow; do
            model=particle
            [ "$width" = narrow ] || model=$scratch/full.safetensors
            "$program" pick --gpus -1 --data "$scratch/mics" --load_model "$model" --frame "$frame" --json \
                --output "$scratch/picks-$width" 2>/dev/null | grep '"event":"image"' >"$scratch/told"
            for part in read network write; do
                number "$part" <"$scratch/told" | row pick "$width: $part of a micrograph of $side" s
            done
            for _ in $(seq "$runs"); do
                "$program" bench --gpus -1 --load_model "$model" --frame "$frame" --runs 1 --data "$scratch/mics" --json |
                    number micrograph_ms
            done | row pick "$width: whole way of a micrograph of $side" ms
        done
        ;;
    train)
        for width in full narrow; do
            # The first step fills caches and is not counted.
            "$examples/train_step" "$batch_side" 1 "$steps" "$width" | sed -n 's/^step [1-9][0-9]*: \([0-9.]*\) s.*/\1/p' |
                row train "$width: a step of 1 x $batch_side x $batch_side" s
        done
        ;;
    esac
done
# If a run measures only some benches, the other numbers of the same day are kept.
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
