#!/bin/sh
# Times epicker and ONNX Runtime on the same network in turn (A B A B ...) and prints medians and their ratio.
# Settings: PAIRS (5), THREADS (2), FRAME (1024), RUNS (5: timed runs within one call), PYTHON (python3).
set -eu
cd "$(dirname "$0")/../.."
pairs=${PAIRS:-5} threads=${THREADS:-2} frame=${FRAME:-1024} runs=${RUNS:-5} python=${PYTHON:-python3}

folder=target/peers
mkdir -p "$folder"
cargo build --release --quiet
[ -f "$folder/formula.safetensors" ] || cargo run --release --quiet --example formula_model -- "$folder/formula.safetensors"
: > "$folder/epicker.json"
: > "$folder/onnx.json"

pair=1
while [ "$pair" -le "$pairs" ]; do
    target/release/epicker bench --load_model "$folder/formula.safetensors" --frame "$frame" --threads "$threads" --runs "$runs" --json >> "$folder/epicker.json"
    "$python" benches/peers/onnx.py --weights "$folder/formula.safetensors" --frame "$frame" --threads "$threads" --runs "$runs" >> "$folder/onnx.json"
    pair=$((pair + 1))
done

"$python" - "$folder/epicker.json" "$folder/onnx.json" <<'PYTHON'
import json, statistics, sys

def documents(path):
    """JSON objects one after the other, each on one line or on several."""
    text, decoder, found = open(path).read().strip(), json.JSONDecoder(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found

ours, theirs = ([run["network_ms"] for run in documents(path)] for path in sys.argv[1:])
for name, times in (("epicker", ours), ("ONNX Runtime", theirs)):
    print(f"{name:13} median {statistics.median(times):8.1f} ms   " + " ".join(f"{time:.1f}" for time in times))
print(f"ratio         {statistics.median(t / o for o, t in zip(ours, theirs)):8.2f}  (ONNX Runtime / epicker, median of pairs)")
PYTHON
