#!/bin/sh
# Proves the GPU path on a GPU. Nothing is built on the machine with the GPU:
#
#   where nvcc is:     kernels/gpu.sh pack         puts binaries into .gpu/
#   where the GPU is:  kernels/gpu.sh run [OUT]    probes, tests, compute-sanitizer, times beside PyTorch's; writes OUT
#   anywhere:          kernels/gpu.sh rehearse     `run` on the emulated GPU: what is proved is the script
#
# OUT (benches/gpu/DATE-DEVICE.json where it is not given) is committed. Nothing that has not passed there becomes a default.
set -eu
cd "$(dirname "$0")/.."

tests() { .gpu/cuda-tests --ignored --test-threads 1 "$@"; }

run() {
    work=$(mktemp -d)
    .gpu/handloom info | tee "$work/info"
    .gpu/handloom info --json >"$work/info.json"
    echo "== primitives"
    tests probe::
    echo "== tests"
    tests --skip bench:: --skip probe::
    HANDLOOM_TEST_PRECISION=bf16 tests ops::operations ops::large_products training::a_gpt
    sanitizer=skipped
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            for one in probe:: ops::large_products ops::operations training::an_lstm graphs::a_gpt; do
                exact=1
                [ $one = graphs::a_gpt ] && exact=0 # what is recorded has memory of its own
                echo "== compute-sanitizer $tool $one"
                HANDLOOM_CUDA_EXACT=$exact HANDLOOM_TEST_QUICK=1 HANDLOOM_TEST_PRECISION=bf16 \
                    compute-sanitizer --tool $tool --error-exitcode 1 .gpu/cuda-tests --ignored --test-threads 1 $one
            done
        done
        sanitizer=passed
    else
        echo "== compute-sanitizer: skipped, it is not on this machine"
    fi
    echo "== times"
    tests --nocapture bench::table | grep '^{' | tee "$work/ours"
    if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
        python3 kernels/gpu_peers.py | tee "$work/theirs"
    else
        echo "PyTorch: skipped, it is not on this machine or sees no GPU"
        : >"$work/theirs"
    fi
    echo "== training"
    printf 'ROMEO:\nBut soft, what light through yonder window breaks?\n%.0s' $(seq "${TEXT:-20000}") >"$work/text"
    : >"$work/training"
    for way in "f32 0" "bf16 0" "bf16 1"; do
        set -- $way
        rm -rf "$work/run"
        HANDLOOM_CUDA_GRAPHS=$2 .gpu/handloom pretrain --model gpt ${SIZE:---size gpt2 --context-length 1024 --batch-size 16} \
            --tokenizer char --train "$work/text" --max-steps "${STEPS:-30}" --logging-steps 1 --warmup-steps 5 --precision "$1" \
            --device cuda --out "$work/run" >/dev/null
        printf '{"precision":"%s","graphs":%s,"last":%s}\n' "$1" "$2" "$(grep tokens_per_s "$work/run/metrics.jsonl" | tail -n 1)" |
            tee -a "$work/training"
    done
    device=$(sed -n 's/.*cuda:0 \([^,]*\),.*/\1/p' "$work/info" | tr ' ' '-')
    out=${OUT:-benches/gpu/$(date -u +%F)-$device.json}
    python3 - "$work" "$sanitizer" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" >"$out" <<'PYTHON'
import datetime, json, pathlib, sys
work, sanitizer, commit = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lines = lambda name: [json.loads(line) for line in (work / name).read_text().splitlines()]
json.dump({"date": datetime.date.today().isoformat(), "commit": commit, "info": json.loads((work / "info.json").read_text()),
           "tests": "passed", "sanitizer": sanitizer, "handloom": lines("ours"), "pytorch": lines("theirs"),
           "training": lines("training")}, sys.stdout, indent=1)
PYTHON
    echo "wrote $out"
}

case "${1:-}" in
pack)
    profile=${PROFILE---release}
    [ -n "${WITHOUT_NVCC:-}" ] || export HANDLOOM_REQUIRE_NVCC=1
    binary() { sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1; }
    program=$(cargo build $profile --features cuda --message-format=json | binary handloom)
    test=$(cargo test $profile --features cuda --test cuda --no-run --message-format=json | binary cuda)
    mkdir -p .gpu
    cp "$program" .gpu/handloom
    cp "$test" .gpu/cuda-tests
    strip .gpu/handloom .gpu/cuda-tests
    ls -l .gpu
    ;;
run)
    OUT=${2:-}
    run
    ;;
rehearse)
    ${CXX:-g++} -std=c++17 -O2 -fPIC -shared -DHL_EMU -Wl,-soname,libcuda.so -o .gpu/libcuda.so kernels/emu/libcuda.cpp
    export HANDLOOM_LIBCUDA="$PWD/.gpu/libcuda.so"
    OUT=.gpu/rehearsal.json TEXT=40 STEPS=4 SIZE="--size nano --context-length 16 --batch-size 2"
    run
    ;;
*)
    echo "usage: kernels/gpu.sh pack | run [OUT] | rehearse" >&2
    exit 2
    ;;
esac
