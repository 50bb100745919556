#!/usr/bin/env bash
# The study: three seeds, one after the other; results.csv gets how they ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

python -m gluonexp.run --multirun experiment=fashion_mnist_cnn seed=0,1,2
python "$here/collect.py" > "$here/results.csv"
