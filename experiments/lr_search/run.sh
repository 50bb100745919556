#!/usr/bin/env bash
# The grid, then the search on the same range; results.csv gets both, pruners.csv what the
# pruners save on the grid's curves. About ten minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

# 20 learning rates from 1e-4 to 1e-1, equal ratios apart
rates=$(python -c 'print(",".join(f"{1e-4 * 1000 ** (k / 19):.6g}" for k in range(20)))')
python -m gluonexp.run -m "optim.lr=$rates" tracking.experiment=lr_grid export=none
for seed in 0 1 2; do
    python -m gluonexp.run sweep=lr_search hydra.sweeper.seed=$seed \
        tracking.experiment="lr_search_$seed" export=none
done
python "$here/collect.py" > "$here/results.csv"
python "$here/pruners.py" > "$here/pruners.csv"
