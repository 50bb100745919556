#!/usr/bin/env bash
# The study; results.csv gets how its runs ended. Needs Fashion-MNIST and CIFAR-10 (JPEG) below
# GLUONEXP_DATA.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"
run() { python -m gluonexp.run experiment=cifar10_alexnet "$@"; }

# The tutorial's own data, as far as weights could be had.
run dataset=cifar10_images model.weights=bundled
# The same recipe on other data: pretrained features against random ones.
run --multirun dataset=digits model.weights=bundled,none seed=0,1,2
run --multirun dataset=fashion_mnist dataset.train_fraction=0.1 trainer.test_each_epoch=false \
    model.weights=bundled,none seed=0,1,2
python "$here/collect.py" > "$here/results.csv"
python "$here/plot.py"
