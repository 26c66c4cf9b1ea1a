#!/bin/sh
# Puts CUDA 13.0's compiler into .cuda/ (300 MB, from NVIDIA's Python wheels, under NVIDIA's licence). No root, no driver,
# no GPU needed. build.rs finds it there. The versions are pinned together: newer parts would not fit.
set -eu
cd "$(dirname "$0")/.."
python3 -m venv .cuda
.cuda/bin/pip install --quiet --disable-pip-version-check --no-deps \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37
touch build.rs # the next build looks for it again
ls .cuda/lib/*/site-packages/nvidia/cu13/bin/nvcc
