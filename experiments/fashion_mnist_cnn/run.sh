#!/usr/bin/env bash
# The study: three seeds, one after the other; results.csv gets how they ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

for seed in 0 1 2; do   # one by one: without a validation split there is nothing to rank by
    python -m gluonexp.run experiment=fashion_mnist_cnn seed=$seed
done
python "$here/collect.py" > "$here/results.csv"
