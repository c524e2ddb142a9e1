#!/bin/sh
# Times epicker and another program on the same network in turn (A B A B ...) and prints medians and their ratio.
# Settings: RUNTIME (onnxruntime, or openvino), NETWORK (full, or particle: the narrow one of that model), PAIRS (5), THREADS (2),
# FRAME (1024), RUNS (5: timed runs within one call), PYTHON (python3), EPICKER (built from this source).
set -eu
cd "$(dirname "$0")/../.."
pairs=${PAIRS:-5} threads=${THREADS:-2} frame=${FRAME:-1024} runs=${RUNS:-5} python=${PYTHON:-python3}
runtime=${RUNTIME:-onnxruntime} network=${NETWORK:-full}

folder=target/peers
mkdir -p "$folder"
[ -n "${EPICKER:-}" ] || cargo build --release --quiet
epicker=${EPICKER:-target/release/epicker}
case $network in
full)
    weights=$folder/formula.safetensors
    [ -f "$weights" ] || cargo run --release --quiet --example formula_model -- "$weights"
    ;;
particle) weights=weights/particle.safetensors ;;
*) echo "NETWORK: full or particle" >&2; exit 2 ;;
esac
: > "$folder/epicker.json"
: > "$folder/other.json"

pair=1
while [ "$pair" -le "$pairs" ]; do
    "$epicker" bench --gpus -1 --load_model "$weights" --frame "$frame" --threads "$threads" --runs "$runs" --json >> "$folder/epicker.json"
    "$python" benches/peers/onnx.py --runtime "$runtime" --weights "$weights" --frame "$frame" --threads "$threads" --runs "$runs" >> "$folder/other.json"
    pair=$((pair + 1))
done

"$python" - "$folder/epicker.json" "$folder/other.json" "$runtime" <<'PYTHON'
import json, statistics, sys

def documents(path):
    """JSON objects one after the other, each on one line or on several."""
    text, decoder, found = open(path).read().strip(), json.JSONDecoder(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found

ours, theirs = ([run["network_ms"] for run in documents(path)] for path in sys.argv[1:3])
for name, times in (("epicker", ours), (sys.argv[3], theirs)):
    print(f"{name:13} median {statistics.median(times):8.1f} ms   " + " ".join(f"{time:.1f}" for time in times))
print(f"ratio         {statistics.median(t / o for o, t in zip(ours, theirs)):8.2f}  ({sys.argv[3]} / epicker, median of pairs)")
PYTHON
