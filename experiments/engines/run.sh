#!/usr/bin/env bash
# The study: three seeds by each engine, one after the other, then the engines' speed in turns.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

for engine in engine=mxnet engine=torch "engine=torch engine.precision=bfloat16"; do
    for seed in 0 1 2; do   # one by one: without a validation split there is nothing to rank by
        # shellcheck disable=SC2086  # words of their own
        python -m gluonexp.run experiment=fashion_mnist_cnn tracking.experiment=engines seed=$seed $engine
    done
done
python "$here/collect.py" > "$here/accuracy.csv"
python "$here/speed.py" --csv "$here/speed.csv"
