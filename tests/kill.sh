#!/bin/bash
# Kills and disk errors from outside: the real program under strace, which makes the N-th system call of a kind
# fail or be the last one of the process. Afterwards the run is resumed and must end in the same bytes as a run
# to which nothing happened, with no checkpoint damaged on the way.
#
#   tests/kill.sh [PROGRAM [POINTS]]      default: target/release/handloom, 240 points
#
# Prints one line at the end and exits with 1 if any point failed.
set -u
cd "$(dirname "$0")/.."
program=$(realpath "${1:-target/release/handloom}")
wanted=${2:-240}
command -v strace >/dev/null || { echo "kill.sh: skipped, there is no strace"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for _ in $(seq 60); do echo -n "the weaver sat at the loom and the shuttle ran from hand to hand. "; done >text.txt
flags="--num-hidden-layers 1 --num-attention-heads 2 --hidden-size 16 --context-length 16 --batch-size 4
  --eval-steps 4 --save-steps 2 --logging-steps 1 --sample-length 0 --threads 1 --warmup-steps 2 --max-steps 6 --quiet"
export RAYON_NUM_THREADS=1
# The state holds wall-clock times, so weights and moments are what can be compared.
ending() { cat "$1"/checkpoints/step-000006/{model,optimizer}.safetensors "$1"/best/model.safetensors | sha256sum; }
"$program" pretrain --train text.txt --out whole $flags || exit 1
expected=$(ending whole)

points=0 failed=0 round=0
# call : what happens to it
kinds="write:signal=KILL write:error=ENOSPC write:error=EIO fsync:signal=KILL fsync:error=EIO rename:signal=KILL
  rename:error=EIO mkdir:signal=KILL mkdir:error=ENOSPC openat:signal=KILL unlinkat:signal=KILL ftruncate:signal=KILL"
while [ "$points" -lt "$wanted" ]; do
  round=$((round + 1)) any=0
  for kind in $kinds; do
    [ "$points" -lt "$wanted" ] || break
    call=${kind%%:*} effect=${kind#*:}
    # openat is mostly the loader's; step through it faster.
    n=$round; [ "$call" = openat ] && n=$((round * 3))
    rm -rf run
    { strace -f -qq -o /dev/null -e trace="$call" -e inject="$call:$effect:when=$n" \
      "$program" pretrain --train text.txt --out run $flags >out 2>&1; } 2>/dev/null
    code=$?
    [ $code -eq 0 ] && continue
    any=1 points=$((points + 1))
    if [ $code -ne 137 ] && [ $code -ne 3 ] && [ $code -ne 1 ]; then
      echo "$kind at $n: exit code $code"; cat out; failed=$((failed + 1))
    fi
    "$program" pretrain --resume run --quiet >out 2>&1
    code=$?
    # Stopped as it began: then there is nothing to go on with, and nothing in the way of a new start.
    if [ $code -eq 3 ] && grep -q "no run" out; then
      "$program" pretrain --train text.txt --out run $flags >out 2>&1
      code=$?
    fi
    if [ $code -ne 0 ] || grep -q damaged out || [ "$(ending run)" != "$expected" ]; then
      echo "$kind at $n: the resumed run differs (exit code $code)"; cat out; failed=$((failed + 1))
    fi
  done
  [ $any = 1 ] || break
done
echo "kill.sh: $points points of failure from outside, $failed failed"
[ "$failed" -eq 0 ]
