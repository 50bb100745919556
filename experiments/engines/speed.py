"""What each engine trains in a second, against loops that only train, in one run and in turns.

Each side has a process of its own and waits while another is measured. What counts is the ratio
within a round; the tables show its median and its range over the rounds.

usage: python experiments/engines/speed.py [--only small,alexnet,...] [--rounds 7] [--csv FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1] / "throughput"))

import material
from results import Row, machine, row, show, write
from sides import start

BFLOAT16 = "engine.precision=bfloat16"
ENGINES = {
    "engine=mxnet": ["engine=mxnet"],
    "engine=torch": ["engine=torch"],
    "engine=torch, bfloat16": ["engine=torch", BFLOAT16],
}
SMALL = "small"
ALONE, TRACKED = "training alone", "tracked, with checkpoints"
PYTORCH = {  # precision, and whether it keeps the memory that it frees
    "PyTorch": ("float32", False),
    "PyTorch, bfloat16": ("bfloat16", False),
    "PyTorch, freed memory kept": ("float32", True),
    "PyTorch, bfloat16, freed memory kept": ("bfloat16", True),
}
Calls = dict[str, list[tuple[str, tuple[str, ...]]]]  # by side: what a call times, and the call
BARE: Calls = {name: [(ALONE, ("epoch", precision))] for name, (precision, _) in PYTORCH.items()}
# Batch, how many of them are an epoch, what to compose, and the same network in PyTorch.
WHOLE = {
    "alexnet": (64, 6, ["model=alexnet_ft"], "alexnet"),
    "resnet18_v1": (16, 8, ["model=zoo_ft", "model.backbone=resnet18_v1"], "resnet18"),
    "resnet50_v1": (8, 8, ["model=zoo_ft", "model.backbone=resnet50_v1"], "resnet50"),
    "mobilenetv2_1.0": (
        *(16, 8, ["model=zoo_ft", "model.backbone=mobilenetv2_1.0"], "mobilenet_v2"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join([SMALL, *WHOLE]), help="of the networks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=20_000, help="an epoch of the small CNN")
    parser.add_argument("--csv", type=Path, help="write the rows here too")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    rows = machine("experiments/engines/speed.py")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if name == SMALL:
                measured = [*small(Path(folder), options.rounds, options.images)]
            else:
                measured = [*whole(name, Path(folder), options.rounds)]
        show(console, measured)
        rows += measured
        if options.csv:
            write(options.csv, rows)


def small(folder: Path, rounds: int, images: int) -> Iterator[Row]:
    """Compare the network of `fashion_mnist_cnn`, alone and with all that a run keeps of it."""
    title, pixels, labels = material.small(images)
    places: dict[str, tuple] = {
        name: (_place(name), ["experiment=fashion_mnist_cnn", *words], pixels, labels)
        for name, words in ENGINES.items()
    }
    for each, (_, keep) in PYTORCH.items():
        places[each] = ("eager:EagerCnn", pixels, labels, keep)
    places["Lightning, MLFlowLogger"] = (*("with_lightning:LightningCnn", pixels, labels, folder),)
    calls: Calls = {
        **{name: [(ALONE, ("epoch",)), (TRACKED, ("tracked_epoch",))] for name in ENGINES},
        **BARE,
        "Lightning, MLFlowLogger": [(TRACKED, ("epoch",))],
    }
    note = f"{title}, {images:,} images, rounds: {rounds}, batch 256, adam"
    yield from _compared("small CNN", folder, places, calls, images, rounds, note)


def whole(name: str, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare a network of the zoo, trained whole at 224 pixels."""
    batch, batches, words, theirs = WHOLE[name]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(batch * batches, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, size=len(pixels))
    given = [*words, "model.weights=none", "freeze=none", "dataset=cifar10", "dataset.resize=224"]
    given += ["optim=sgd", "optim.momentum=0.9", f"trainer.batch_size={batch}"]
    places: dict[str, tuple] = {
        each: (_place(each), [*given, *engine], pixels, labels) for each, engine in ENGINES.items()
    }
    for each, (_, keep) in PYTORCH.items():
        places[each] = ("bare:Bare", theirs, pixels, labels, batch, keep)
    calls: Calls = {each: [(ALONE, ("epoch",))] for each in ENGINES} | BARE
    note = f"random images, batch {batch}, {batches} batches, rounds: {rounds}, sgd, momentum 0.9"
    yield from _compared(f"{name}, 224 pixels", folder, places, calls, len(pixels), rounds, note)


def _place(engine: str) -> str:
    return f"{'trained' if engine == 'engine=mxnet' else 'beside_torch'}:Trained"


def _compared(
    part: str,
    folder: Path,
    places: dict[str, tuple],
    calls: Calls,
    images: int,
    rounds: int,
    note: str,
) -> Iterator[Row]:
    sides, missing = start(places, folder)
    seconds: dict[tuple[str, str], list[float]] = {}
    for at in range(rounds + 1):  # the first warms up
        for name, side in sides.items():
            for timed, call in calls[name]:
                seconds.setdefault((timed, name), []).append(side.call(*call))
        if at == 0:
            seconds.clear()
    for side in sides.values():
        side.close()
    for (timed, name), values in seconds.items():
        rates = [images / value for value in values]
        yield row(part, "images a second", timed, name, rates, "", note=note)
    for (timed, ours), mine in seconds.items():
        low = ours.endswith("bfloat16")
        bare = "PyTorch, bfloat16" if low else "PyTorch"
        asked = {
            "engine=mxnet": "",
            bare: ">= 0.95",
            f"{bare}, freed memory kept": "",
            "Lightning, MLFlowLogger": ">= 1.8" if low else ">= 1.2",
        }
        for name, asks in asked.items():
            if ours.startswith("engine=torch") and (theirs := seconds.get((timed, name))):
                ratios = [a / b for a, b in zip(theirs, mine, strict=True)]
                yield row(part, f"{ours}, times", timed, name, ratios, "x", asks)
    for name, why in missing.items():
        yield Row(part, "", "", name, None, "", note=f"not measured: {why}")


if __name__ == "__main__":
    main()
