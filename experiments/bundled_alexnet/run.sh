#!/usr/bin/env bash
# How the bundled weights were made: three stages (hours on two cores), then one file; results.csv
# gets how the stages ended.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

python "$here/pretrain.py" | tee log
last=$(sed -n 's/^224 px: run \([0-9a-f]*\):.*/\1/p' log)
python "$here/fold.py" "$last" "$here/../../gluonexp/weights/alexnet-cifar10.safetensors"
python "$here/collect.py" > "$here/results.csv"
