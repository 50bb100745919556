#!/usr/bin/env bash
# The study: what each piece of the recipe is worth, and how many seconds the whole takes. Needs
# CIFAR-10 (JPEG) below GLUONEXP_DATA.
#   ./run.sh [FOLDER [OVERRIDE ...]]    the overrides are for the first part
# Runs that have finished in the folder are not trained again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
shift || true
mkdir -p "$work"
cd "$work"

python "$here/train.py" "$@"
python "$here/collect.py" > "$here/results.csv"
# Where nothing else runs.
python "$here/seconds.py" > "$here/seconds.csv"
