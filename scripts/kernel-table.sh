#!/usr/bin/env bash
# Writes docs/gpu-kernels.txt: registers, shared and local memory and occupancy of every kernel on every architecture.
# It needs NVRTC (scripts/fetch-nvrtc.sh), but no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
EPICKER_CUDA_ARCHS=all EPICKER_WRITE_KERNEL_TABLE=1 cargo test --quiet --test kernels budgets
