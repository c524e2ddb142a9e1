#!/usr/bin/env bash
# Fetches NVIDIA's run-time compiler (NVRTC), with which the build makes machine code of the kernels, into the user's
# cache. It fetches 90 MB, and only once; it needs python3 with pip, but neither root nor a GPU. The library is NVIDIA's,
# under NVIDIA's licence: the build uses it, and no release contains it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=12.9.86 # the same as FETCHED_VERSION in src/device/gpu/nvrtc.rs
folder=${XDG_CACHE_HOME:-$HOME/.cache}/epicker/nvrtc-$version

if [ ! -f "$folder/libnvrtc.so.12" ]; then
    mkdir -p "$(dirname "$folder")"
    scratch=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform "manylinux2014_$(uname -m)" --dest "$scratch" "nvidia-cuda-nvrtc-cu12==$version"
    python3 - "$scratch" <<'PYTHON'
import pathlib, sys, zipfile
scratch = pathlib.Path(sys.argv[1])
(scratch / "lib").mkdir()
with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
    for name in wheel.namelist():
        file = name.rsplit("/", 1)[-1]
        if (file.startswith("libnvrtc") and ".alt." not in file) or file == "License.txt":
            (scratch / "lib" / file).write_bytes(wheel.read(name))
PYTHON
    rm -rf "$folder"
    mv "$scratch/lib" "$folder"
    touch build.rs # so that the next build looks for a compiler again
fi
echo "$folder/libnvrtc.so.12"
