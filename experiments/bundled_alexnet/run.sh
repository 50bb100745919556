#!/usr/bin/env bash
# How the bundled weights were made: three stages (hours on two cores), then one file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
python pretrain.py | tee "$log"
last=$(sed -n 's/^224 px: run \([0-9a-f]*\):.*/\1/p' "$log")
python fold.py "$last" ../../gluonexp/weights/alexnet-cifar10.safetensors
