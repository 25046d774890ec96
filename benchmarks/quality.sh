#!/usr/bin/env bash
# The quality runs: three seeds on LETTER's codes, on those of our RQ-VAE and of our DASModel, two runs at a time with one
# thread each, hours in all. A run that was stopped goes on from its last checkpoint; one that has ended is scored again.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=.venv/bin/python

run() {
  "$python" benchmarks/beauty.py train --codes "$1" --epochs "$2" --seed "$3"
  "$python" benchmarks/beauty.py fuse --codes "$1" --epochs "$2" --seed "$3"
}

if [ ! -e runs/item_vectors/beauty/users.parquet ]; then
  "$python" examples/train_item_vectors.py --sequences ../shared/data/amazon2014/beauty/sequences.txt \
    --num_train_epochs 10 --learning_rate 4e-3 --dropout 0.4 --output_dir runs/item_vectors/beauty
fi
for seed in 0 1 2; do
  run letter 16 "$seed" & letter=$!
  run own 8 "$seed"
  "$python" benchmarks/item_tokenizers.py retrieve --only "DAS 3x256" --seeds "$seed"
  run das 16 "$seed"
  wait "$letter"
done
"$python" benchmarks/beauty.py baselines
