#!/usr/bin/env bash
# The quality runs: three seeds on LETTER's codes and on our own, two runs at a time with one thread each, hours in all.
# A run that was stopped goes on from its last checkpoint; one that has ended is scored again.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=.venv/bin/python

run() {
  "$python" benchmarks/beauty.py train --codes "$1" --epochs "$2" --seed "$3"
  "$python" benchmarks/beauty.py fuse --codes "$1" --epochs "$2" --seed "$3"
}

for seed in 0 1 2; do
  run letter 16 "$seed" & letter=$!
  run own 8 "$seed" & own=$!
  wait "$letter"
  wait "$own"
done
"$python" benchmarks/beauty.py baselines
