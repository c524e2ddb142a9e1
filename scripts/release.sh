#!/usr/bin/env bash
# Makes dist/epicker-VERSION-linux-x86_64.tar.gz: the program with machine code for every GPU, its wrappers, models and
# docs, man pages, completions, licences and a bill of materials, for every Linux with glibc 2.17 (2012) or later. The install.sh
# inside installs it into a folder of the user's choice; packaging/ has recipes that go on from the archive.
#
# It needs cargo, python3 with pip (for zig, which links against the old glibc, and for NVRTC), and readelf, but neither a GPU
# nor root.
#   scripts/release.sh                 fetches what it needs into the cache, builds, checks, packs
#   OLD_ROOT=/path scripts/release.sh  also runs the program with that folder's ld.so and libraries
set -euo pipefail
cd "$(dirname "$0")/.."
glibc=2.17
zigbuild=0.24.0
target=x86_64-unknown-linux-gnu

# Man pages and completions follow from the command line, so a build for development makes them as well.
shell_files=$(mktemp -d)
trap 'rm -rf "$shell_files"' EXIT
cargo run --quiet --locked --example shell_files -- "$shell_files"

if ! command -v cargo-zigbuild >/dev/null; then
    tools=${XDG_CACHE_HOME:-$HOME/.cache}/epicker/zigbuild-$zigbuild
    if [ ! -x "$tools/bin/cargo-zigbuild" ]; then
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet --disable-pip-version-check "cargo-zigbuild==$zigbuild"
    fi
    PATH=$tools/bin:$PATH
fi
NVRTC_LIB=$(scripts/fetch-nvrtc.sh)
export PATH NVRTC_LIB EPICKER_CUDA_ARCHS=all CARGO_PROFILE_RELEASE_STRIP=${CARGO_PROFILE_RELEASE_STRIP:-debuginfo}

cargo zigbuild --release --locked --bin epicker --target "$target.$glibc"
program=${CARGO_TARGET_DIR:-target}/$target/release/epicker

# The program may need no symbol that a glibc of that age lacks, and no library but glibc's own.
newest=$(readelf --version-info "$program" | grep -o 'GLIBC_[0-9.]*' | sort -u -t_ -k2 -V | tail -1)
if [ "$(printf '%s\n' "$newest" "GLIBC_$glibc" | sort -t_ -k2 -V | tail -1)" != "GLIBC_$glibc" ]; then
    echo "$program needs $newest; expected at most GLIBC_$glibc" >&2
    exit 1
fi
others=$(readelf --dynamic "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -v -x -E 'lib(c|m|dl|pthread|rt|util)\.so\.[0-9]+|ld-linux-x86-64\.so\.2' || true)
if [ -n "$others" ]; then
    printf '%s needs libraries beside glibc: %s\n' "$program" "$others" >&2
    exit 1
fi
if [ -n "${OLD_ROOT:-}" ]; then
    "$OLD_ROOT/lib64/ld-linux-x86-64.so.2" --library-path "$OLD_ROOT/lib64:$OLD_ROOT/usr/lib64" "$program" --version
fi
"$program" --version >/dev/null

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
name=epicker-$version-linux-x86_64
rm -rf "dist/$name"
mkdir -p "dist/$name/bin"
cp "$program" bin/epicker.sh bin/epicker_train.sh "dist/$name/bin/"
cp -r docs README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT scripts/install.sh "dist/$name/"
mkdir "dist/$name/examples"
cp -r examples/slurm examples/cryosparc "dist/$name/examples/"
if [ -d weights ]; then
    cp -r weights "dist/$name/weights"
    # The program takes its own models rather than those of an earlier release, which it knows by these sums.
    (cd "dist/$name/weights" && sha256sum ./*.safetensors >SHA256SUMS)
fi
cp -r "$shell_files" "dist/$name/share"
chmod 755 "dist/$name/share"
mkdir -p "dist/$name/share/modulefiles/epicker"
cp packaging/modulefiles/epicker "dist/$name/share/modulefiles/epicker/$version"
scripts/third-party.py "dist/$name"
(cd "dist/$name" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
# The same sources give the same archive, except for bytes that the compilers themselves change from run to run.
tar --create --gzip --file "dist/$name.tar.gz" --directory dist --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime "$(git log -1 --format=%cI)" "$name"
rm -rf "dist/$name"
(cd dist && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
echo "dist/$name.tar.gz ($(du -h "dist/$name.tar.gz" | cut -f1), newest symbol $newest)"
