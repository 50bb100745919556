#!/usr/bin/env bash
# Train each network a little, export it with 8-bit integers, and time both; results.csv gets what
# comes out. Needs no download; about ten minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes
mkdir -p "$work"
cd "$work"

little=(dataset=digits freeze=none optim=sgd optim.lr=0.003 trainer.epochs=1
    trainer.batch_size=16 tracking.experiment=int8 export.int8=true export.mlflow_model=false)
python -m gluonexp.run model=cnn "${little[@]}"
python -m gluonexp.run model=alexnet_ft model.weights=bundled "${little[@]}" \
    dataset.train_fraction=0.2
python -m gluonexp.run model=zoo_ft model.weights=none "${little[@]}" \
    dataset.train_fraction=0.2 model.backbone=resnet18_v1
python "$here/measure.py" > "$here/results.csv"
