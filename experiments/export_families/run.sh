#!/usr/bin/env bash
# Train each network a little, export it, and prove the export in every runtime; results.csv gets
# what the certificates say. Needs CIFAR-10 (JPEG) below GLUONEXP_DATA; about half an hour on two cores.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-$(mktemp -d)}   # where mlruns/ goes, and the chosen images
: "${GLUONEXP_DATA:?the folder that holds cifar10-images/}"
mkdir -p "$work"
cd "$work"

# The first images of each class: 32 to train with, 26 to prove with (a certificate takes 256).
for wanted in train:32 test:26; do
    split=${wanted%:*}
    for class in "$GLUONEXP_DATA/cifar10-images/$split"/*/; do
        chosen=data/cifar10-images/$split/$(basename "$class")
        mkdir -p "$chosen"
        find "$class" -name '*.jpg' | sort | sed -n "1,${wanted#*:}p" | xargs cp -t "$chosen"
    done
done

# Every weight is trained and every running statistic moves: none shall be what it began as.
little=(dataset=cifar10_images dataset.root="$PWD/data" freeze=none optim=sgd optim.lr=0.003
    trainer.epochs=1 trainer.batch_size=16 tracking.experiment=export_families export.images=256)
python -m gluonexp.run -m model=cnn "${little[@]}"
python -m gluonexp.run -m model=alexnet_ft model.weights=none "${little[@]}"
python -m gluonexp.run -m model=zoo_ft model.weights=none "${little[@]}" model.backbone=\
resnet18_v1,resnet18_v2,vgg11,vgg11_bn,densenet121,squeezenet1.1,mobilenet1.0,mobilenetv2_1.0,inceptionv3
python "$here/collect.py" > "$here/results.csv"
