#!/usr/bin/env bash
# Every quality run behind results/, two at a time with one thread each. A run that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
for seed in 0 1 2; do
  for codes in letter own; do
    epochs=10; [ "$codes" = own ] && epochs=8
    .venv/bin/python benchmarks/beauty.py train --codes "$codes" --seed "$seed" --epochs "$epochs" &
  done
  wait
done
.venv/bin/python benchmarks/beauty.py baselines
