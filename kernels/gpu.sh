#!/bin/sh
# Proves the GPU path on a GPU. Nothing is built on the machine with the GPU:
#
#   where nvcc is:     kernels/gpu.sh pack          puts binaries into .gpu/
#   where the GPU is:  kernels/gpu.sh run [OUT]     runs the tests, compute-sanitizer, the bench; writes OUT (gpu.json)
#
# The result is committed as benches/gpu/DATE-DEVICE.json. A kernel becomes the default only after that.
set -eu
cd "$(dirname "$0")/.."

case "${1:-}" in
pack)
    HANDLOOM_REQUIRE_NVCC=1 cargo build --release --features cuda
    test=$(HANDLOOM_REQUIRE_NVCC=1 cargo test --release --features cuda --test cuda --no-run --message-format=json |
        grep '"name":"cuda"' | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    mkdir -p .gpu
    cp target/release/handloom .gpu/handloom
    cp "$test" .gpu/cuda-tests
    strip .gpu/handloom .gpu/cuda-tests
    ls -l .gpu
    ;;
run)
    out=${2:-gpu.json}
    # Every ignored test computes on cuda:0; says_what_is_missing is for machines without one.
    .gpu/handloom info
    .gpu/cuda-tests --ignored --test-threads 1
    HANDLOOM_CUDA_MATMUL=medium .gpu/cuda-tests --ignored --test-threads 1 large_products training::a_gpt
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            compute-sanitizer --tool $tool --error-exitcode 1 .gpu/cuda-tests --ignored --test-threads 1 \
                memory:: ops::large_products training::an_lstm
        done
        sanitizer=passed
    else
        echo "skipped: compute-sanitizer is not on this machine"
        sanitizer=skipped
    fi
    printf 'ROMEO:\nBut soft, what light through yonder window breaks?\n%.0s' $(seq 400) >/tmp/handloom-gpu.txt
    start=$(date +%s)
    .gpu/handloom pretrain --model gpt --size mini --tokenizer char --train /tmp/handloom-gpu.txt --max-steps 50 \
        --device cuda --out /tmp/handloom-gpu-run
    end=$(date +%s)
    tail -n 1 /tmp/handloom-gpu-run/metrics.jsonl
    .gpu/handloom info --json |
        sed "s/}\$/,\"tests\":\"passed\",\"sanitizer\":\"$sanitizer\",\"pretrain_seconds\":$((end - start)),\"date\":\"$(date -u +%F)\"}/" >"$out"
    cat "$out"
    ;;
*)
    echo "usage: kernels/gpu.sh pack | run [OUT]" >&2
    exit 2
    ;;
esac
