#!/bin/bash
# Do the tests bite? Every fault of tests/mutations.list is put into a copy of the source, all of them at once behind a
# switch, so that one build serves all. Then each is switched on alone (HANDLOOM_MUTANT=n) for the test named beside
# it, which must fail. First all those tests must pass with none switched on.
#
#   tests/mutations.sh            prints a line a fault that was missed, and the count; exits with 1 if any was missed
#
# CARGO runs cargo (default: cargo); CARGO_TARGET_DIR is where it builds (default: a folder of its own, gone afterwards).
set -u
cd "$(dirname "$0")/.."
list=$(realpath tests/mutations.list)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z src tests fuzz Cargo.toml Cargo.lock README.md build.rs benches examples docs 2>/dev/null |
  xargs -0 cp --parents -t "$work" || exit 1
cp tests/mutations.list "$work/tests/" 2>/dev/null
cd "$work"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$work/target}
cargo=${CARGO:-cargo}

# Replaces the first occurrence of $OLD in a file by the switch; fails if there is none.
put() {
  OLD=$2 NEW="(if crate::mutant($4) { $3 } else { $2 })" awk '
    BEGIN { RS = "\001"; old = ENVIRON["OLD"] }
    { at = index($0, old); if (!at) exit 1
      printf "%s%s%s", substr($0, 1, at - 1), ENVIRON["NEW"], substr($0, at + length(old)) }' "$1" >put.tmp &&
    cp put.tmp "$1"
}

declare -a what tests
n=0
while IFS= read -r line; do
  case $line in '' | '#'*) continue ;; esac
  file=${line%% | *} rest=${line#* | }
  old=${rest%% | *} rest=${rest#* | }
  new=${rest%% | *} test=${rest#* | }
  n=$((n + 1))
  put "$file" "$old" "$new" $n || { echo "mutation $n: \`$old\` is not in $file"; exit 1; }
  what[n]="$file: $old → $new" tests[n]=$test
done <"$list"
cat >>src/lib.rs <<'R'

/// Whether this fault is switched on.
#[doc(hidden)]
pub fn mutant(n: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let read = || std::env::var("HANDLOOM_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    *ON.get_or_init(read) == n
}
R
export CARGO_PROFILE_TEST_DEBUG=false CARGO_INCREMENTAL=0

# Builds what the list names, and finds the programs.
names=$(printf '%s\n' "${tests[@]}" | awk '$1 == "--test" { print "--test", $2 } $1 == "--lib" { print "--lib" }' | sort -u)
$cargo test --no-run $names 2>build.log || { tail -50 build.log; exit 1; }
program() {
  sed -n "s/.*Executable $1 (\(.*\))/\1/p" build.log | head -1
}
run() { # arguments of cargo test
  local kind=$1; shift
  local path
  case $kind in
  --lib) path=$(program 'unittests src\/lib.rs') ;;
  --test) path=$(program "tests\/$1[^ ]*"); shift ;;
  esac
  (cd "$work" && CARGO_MANIFEST_DIR=$work timeout 300 "$path" "$@") >run.log 2>&1
}
echo "mutations.sh: $n faults; the tests without any:"
printf '%s\n' "${tests[@]}" | sort -u >all.tests
while IFS= read -r test; do
  run $test || { echo "fails without a fault: $test"; tail -20 run.log; exit 1; }
  grep -q "^test result: ok. 0 passed" run.log && { echo "no such test: $test"; exit 1; }
done <all.tests
caught=0
for i in $(seq $n); do
  if HANDLOOM_MUTANT=$i run ${tests[i]}; then
    echo "missed: $i. ${what[i]} by ${tests[i]}"
  else
    caught=$((caught + 1))
  fi
done
echo "mutations.sh: $caught of $n faults caught"
[ "$caught" -eq "$n" ]
