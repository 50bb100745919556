#!/usr/bin/env bash
# The study as it was run: three seeds, one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python -m gluonexp.run --multirun experiment=fashion_mnist_cnn seed=0,1,2 "$@"
