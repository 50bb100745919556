"""Train AlexNet's convolutions on CIFAR-10 (JPEG): small images first, 224 pixels last.

    python pretrain.py                  # three tracked runs; their ids are printed
    python pretrain.py --after RUN_ID   # the stages after that one's
    python pretrain.py --quick          # the same in a few minutes, for a look

Each stage starts from the convolutions of the one before. They train with BatchNorm, which
`fold.py` then folds into the plain convolutions of the model zoo's AlexNet.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gluonexp import experiment, tracking
from gluonexp.base.mx import mx, nd, nn
from gluonexp.run import compose
from gluonexp.tracking.artifacts import of_run

# Filters, kernel, stride, padding, and whether 3x3/2 max pooling follows: AlexNet's.
CONVOLUTIONS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)

# Pixels, epochs, learning rate. Training cost grows with the pixels: most epochs are small.
STAGES = ((64, 8, 0.05), (128, 6, 0.05), (224, 1, 0.02))
QUICK = ((64, 1, 0.05), (96, 1, 0.02))

RECIPE = [
    "dataset=cifar10_images",
    # ImageNet's, as every fine-tuning model expects, whatever its weights are.
    "dataset.mean=[0.485,0.456,0.406]",
    "dataset.std=[0.229,0.224,0.225]",
    "augment=flip_crop",
    "optim=nag",
    "optim.weight_decay=5e-4",
    "scheduler=cosine",
    "scheduler.warmup_epochs=0.25",
    "trainer.batch_size=128",
    "tracking.experiment=bundled_alexnet",
    "export=none",
    "build.allow=[pretrain]",
]


def alexnet_bn(classes: int, start: str | None = None) -> nn.HybridBlock:
    """Return AlexNet's convolutions with BatchNorm, and one linear layer on top.

    Parameters
    ----------
    start
        Gluon parameters of an earlier stage. Its convolutions are taken; its linear layer is not,
        since that depends on the image size.
    """
    net = nn.HybridSequential()
    features, head = nn.HybridSequential(), nn.HybridSequential()
    for filters, kernel, stride, padding, pool in CONVOLUTIONS:
        features.add(
            nn.Conv2D(filters, kernel, stride, padding, use_bias=False),
            nn.BatchNorm(),
            nn.Activation("relu"),
        )
        if pool:
            features.add(nn.MaxPool2D(3, 2))
    head.add(nn.Flatten(), nn.Dropout(0.5), nn.Dense(classes))
    net.add(features, head)
    if start is not None:
        parameters = net._collect_params_with_prefix()
        for name, value in nd.load(start).items():
            if name.startswith("0."):
                parameters[name].shape = value.shape
                parameters[name].initialize(mx.init.Constant(value))
    return net


def stored(run_id: str, folder: Path) -> str:
    """Return the best parameters of a run, copied into `folder` unless they lie here."""
    client = tracking.open_store(None)
    run_id = tracking.find_run(client, run_id).info.run_id
    return str(of_run(client, run_id).fetch("checkpoint", folder) / "model.params")


def main() -> None:
    """Train the stages one after the other, each as a tracked run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, for a look")
    parser.add_argument("--after", metavar="RUN_ID", help="go on after this stage")
    given = parser.parse_args()
    start, done = "null", 0
    with tempfile.TemporaryDirectory() as temporary:
        if given.after is not None:
            start = stored(given.after, Path(temporary) / "before")
            earlier = tracking.find_run(tracking.open_store(None), given.after)
            done = int(earlier.data.params["dataset.resize"])
        for pixels, epochs, lr in QUICK if given.quick else STAGES:
            if pixels <= done:
                continue
            overrides = [
                *RECIPE,
                "model._target_=pretrain.alexnet_bn",
                f"+model.start={start}",
                f"dataset.resize={pixels}",
                f"trainer.epochs={epochs}",
                f"optim.lr={lr}",
                f"tracking.run_name=pretrain-{pixels}px",
            ]
            # model=cnn is the default; its own two options are not this model's.
            overrides += ["~model.channels", "~model.hidden"]
            folder = Path(temporary) / f"{pixels}px"
            result = experiment.run(compose(*overrides), folder, overrides)
            print(f"{pixels} px: run {result.run_id}: {result.metrics}", flush=True)
            assert result.run_id is not None
            start = stored(result.run_id, folder / "stored")


if __name__ == "__main__":
    main()
