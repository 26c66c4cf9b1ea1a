#!/bin/bash
# The checks that take long or need tools beyond the stable compiler. Each part says what it did, or that it was
# skipped and why. `docs/reliability.md` says which promise each part proves.
#
#   tests/deep.sh [PART...]       all parts, or some of: intrinsics scans wasm cuda asan tsan miri noavx neon kill fuzz mutations
#
# HANDLOOM_FUZZ: executions a target by chance (default 200000); HANDLOOM_FUZZ_SECONDS: time for each by coverage
# (default 30). Exits with 1 if any part failed.
set -u
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
host=x86_64-unknown-linux-gnu
parts=${*:-intrinsics scans wasm cuda asan tsan miri noavx neon kill fuzz mutations}
failed=() skipped=()
# What the compiler can assert at each access to memory, which `cargo test` does without.
export CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=true

has() { command -v "$1" >/dev/null 2>&1; }
nightly() { rustup run nightly rustc --version >/dev/null 2>&1; }
skip() { echo "== $part: skipped, $1"; skipped+=("$part"); return 0; }
# What of the library is worth running in slow machines: every kernel, the tape, the unsafe code.
KERNELS="cpu:: tensor:: autograd:: text::token_file"

# A vector intrinsic that is called as a function was compiled without its instruction set: ten times slower.
# Counted are calls out of a function of this crate, or of one that it calls; other crates may do as they like.
intrinsics() {
  has objdump || { skip "there is no objdump"; return; }
  $cargo build --release || return 1
  local calls
  calls=$(objdump -d --no-show-raw-insn target/release/handloom | awk '
    /^[0-9a-f]+ <.*>:/ { f = substr($2, 2, length($2) - 3) }
    /call/ {
      callee = substr($NF, 2, length($NF) - 2)
      if (callee ~ /_mm(256|512)?_/) count[f]++
      else if (f ~ /handloom/) ours[callee] = 1
    }
    END { for (f in count) if (f ~ /handloom/ || f in ours) print count[f], f }')
  [ -z "$calls" ] && { echo "no intrinsic is called as a function"; return; }
  echo "$calls"; return 1
}

# exp, log, tanh, sigmoid, erf, gelu over all 2^32 numbers, the power function over 10^8 pairs, products.
scans() {
  $cargo test --release --lib -- --ignored --nocapture --test-threads=1 cpu::simd::math cpu::gemm
}

# The library for browsers.
wasm() {
  rustup target list --installed 2>/dev/null | grep -q wasm32-unknown-unknown || { skip "the target is not installed"; return; }
  $cargo check --lib --no-default-features --target wasm32-unknown-unknown
}

# The GPU path on an emulated driver that the host's C++ compiler builds from kernels/.
cuda() {
  if $cargo tree --edges normal,build | grep -E "cudarc|libloading"; then
    echo "CUDA crates are compiled without the feature"; return 1
  fi
  has "${CXX:-g++}" || { skip "there is no C++ compiler"; return; }
  $cargo test --features cuda --test cuda
}

# A test asks for more memory than there is, which must be refused and not end the process. The names of mapped files are
# left to the bus-error handler for ever, a few bytes a file: no leaks are looked for.
asan() {
  nightly || { skip "there is no nightly compiler"; return; }
  RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=target/asan \
    ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=0 \
    $cargo +nightly test --lib --target $host -- $KERNELS ops::small
}

# What runs in several threads: the crew, each kernel's test of its bits at 1 to 4 of them, products, the tape, tensors.
tsan() {
  nightly || { skip "there is no nightly compiler"; return; }
  [ -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ] || { skip "no rust-src"; return; }
  RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=target/tsan TSAN_OPTIONS=allocator_may_return_null=1 \
    $cargo +nightly test -Zbuild-std --lib --target $host -- \
    bits cpu::crew cpu::threads cpu::scratch cpu::attention cpu::gemm::tests::batches cpu::gemm::tests::long_sums tensor:: autograd::
}

# Miri runs each kernel on small inputs at every instruction set that it knows; `ops::small` asserts which ran.
# Products of bf16 pairs are beyond it (it does not know `vdpbf16ps`): asan looks at those. Of tiles it runs the model.
miri() {
  nightly && $cargo +nightly miri --version >/dev/null 2>&1 || { skip "there is no Miri"; return; }
  RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+f16c,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl" CARGO_TARGET_DIR=target/miri \
    HANDLOOM_EXPECT_ISA=portable,avx2,avx512 RAYON_NUM_THREADS=1 \
    MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance" \
    $cargo +nightly miri test --lib -- --nocapture --test-threads=1 ops::small cpu::gemm::tests::every_path cpu::gemm::tiles cpu::simd::isa
}

# A processor without AVX: the portable kernels, chosen at run time.
noavx() {
  has qemu-x86_64 || { skip "there is no qemu-x86_64"; return; }
  local program
  $cargo test --lib --no-run 2>noavx.log || { cat noavx.log; rm noavx.log; return 1; }
  program=$(sed -n 's/.*unittests src\/lib.rs (\(.*\))/\1/p' noavx.log); rm noavx.log
  HANDLOOM_EXPECT_ISA=portable qemu-x86_64 -cpu qemu64 "$program" --nocapture ops::small
}

neon() {
  has qemu-aarch64 && has aarch64-linux-gnu-gcc || { skip "there is no qemu-aarch64 or cross compiler"; return; }
  rustup target list --installed | grep -q aarch64-unknown-linux-gnu || { skip "rustup target add aarch64-unknown-linux-gnu"; return; }
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    HANDLOOM_EXPECT_ISA=portable,neon $cargo test --target aarch64-unknown-linux-gnu --lib -- --nocapture ops::small &&
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
    $cargo test --target aarch64-unknown-linux-gnu --test repeats twenty_steps
}

kill() {
  has strace || { skip "there is no strace"; return; }
  $cargo build --release && tests/kill.sh target/release/handloom 240
}

# Changed files without end, first by chance, then by coverage; what is new stays out of the committed corpus, which
# `cargo fuzz cmin` makes small.
fuzz() {
  HANDLOOM_FUZZ=${HANDLOOM_FUZZ:-200000} $cargo test --release --test fuzz_corpus -- --nocapture || return 1
  nightly && has cargo-fuzz || { echo "by coverage: skipped, there is no nightly compiler or cargo-fuzz"; return; }
  local new target ok=0
  new=$(mktemp -d)
  for target in $(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//'); do
    mkdir "$new/$target"
    $cargo +nightly fuzz run -s none --target $host "$target" "$new/$target" "fuzz/corpus/$target" -- \
      -max_total_time="${HANDLOOM_FUZZ_SECONDS:-30}" -max_len=4096 -timeout=5 -rss_limit_mb=512 -print_final_stats=1 2>fuzz.log ||
      { tail -40 fuzz.log; ok=1; }
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' fuzz.log) executions by coverage"
  done
  rm -rf "$new" fuzz.log
  return $ok
}

mutations() { tests/mutations.sh; }

for part in $parts; do
  echo "== $part"
  start=$SECONDS
  before=${#skipped[@]}
  if $part; then
    [ ${#skipped[@]} -gt "$before" ] || echo "== $part: passed in $((SECONDS - start)) s"
  else
    failed+=("$part")
    echo "== $part: FAILED after $((SECONDS - start)) s"
  fi
done
echo "== failed: ${failed[*]:-none}; skipped: ${skipped[*]:-none}"
[ ${#failed[@]} -eq 0 ]
