"""gluonexp against the tutorials' loops, PyTorch and Lightning, in one process tree, in turns.

Each side has a process of its own and waits while another is measured. The machine may be noisy:
what counts is the ratio within a round; the tables show its median and its range over the rounds.

usage: python experiments/throughput/bench.py [--quick] [--only cnn,alexnet,startup] [--csv FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import alexnet
import material
import startup
from results import Row, machine, row, show, write
from rich.console import Console
from sides import Missing, start

PARTS = ("cnn", "alexnet", "startup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, in 5 minutes")
    parser.add_argument("--only", default=",".join(PARTS), help="of cnn, alexnet, startup")
    parser.add_argument("--rounds", type=int, help="of the small CNN; 15, or 3 with --quick")
    parser.add_argument("--images", type=int, help="of its epoch; 30,000, or 10,000")
    parser.add_argument("--csv", type=Path, help="write the rows here too")
    options = parser.parse_args()

    width = None if sys.stdout.isatty() else 140  # columns, also in a log
    console, started = Console(width=width), time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        console.print(f"{minutes:02d}:{seconds:02d}  {text}", highlight=False)

    quick = options.quick
    rounds = options.rounds or (3 if quick else 15)
    images = options.images or (10_000 if quick else 30_000)
    work: dict[str, Callable[[Path], Iterator[Row]]] = {
        "cnn": lambda folder: cnn(folder, rounds, images, say),
        "alexnet": lambda folder: alexnet.compare(
            folder, alexnet.Sizes(*((1, 640, 320) if quick else (5, 1_280, 640))), say
        ),
        "startup": lambda folder: start_up(folder, quick, say),
    }
    rows = machine()
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measured = list(work[name](Path(folder)))
        show(console, measured)
        rows += measured
        if options.csv:
            write(options.csv, rows)
    say("done")


def cnn(folder: Path, rounds: int, images: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Compare an epoch of the small network."""
    title, pixels, labels = material.small(images)
    say(f"small CNN: {title}, {images:,} images an epoch")
    places = {
        "mxnet": ("cnn:SmallCnn", pixels, labels),
        "torch": ("eager:EagerCnn", pixels, labels),
        "lightning": ("with_lightning:LightningCnn", pixels, labels, folder),
    }
    sides, missing = start(places, folder)
    times: dict[str, list[float]] = {}
    shares, beyond = [], []
    steps = sides["mxnet"].call("steps")
    for at in range(rounds):
        say(f"small CNN: round {at + 1} of {rounds}")
        bare = sides["mxnet"].call("bare")
        ours, tracking = sides["mxnet"].call("ours")
        seconds = {"bare loop": bare, "tutorial": sides["mxnet"].call("tutorial")}
        if "torch" in sides:
            seconds["PyTorch float32"] = sides["torch"].call("epoch", "float32")
            seconds["PyTorch bfloat16"] = sides["torch"].call("epoch", "bfloat16")
        if "lightning" in sides and at < 3:
            seconds["Lightning, MLFlowLogger"] = sides["lightning"].call("epoch")
        times.setdefault("gluonexp", []).append(ours)
        for name, value in seconds.items():
            times.setdefault(name, []).append(value)
        shares.append(100 * tracking / ours)
        beyond.append(1000 * (ours - bare) / steps)
    for side in sides.values():
        side.close()
    part, name, note = "small CNN", "epoch", f"{title}, {images:,} images, rounds: {rounds}"
    yield row(part, name, "", "gluonexp", times["gluonexp"], "s", note=note)
    for side, values in times.items():
        if side != "gluonexp":
            ratios = [a / b for a, b in zip(values, times["gluonexp"], strict=False)]
            asked = {"bare loop": ">= 0.93", "tutorial": ">= 1.3"}.get(side, "")
            yield row(part, name, "", side, ratios, "x", asked, "the side's time over gluonexp's")
    for side, why in missing.items():
        yield Row(part, name, "", side, None, "", note=f"not measured: {why}")
    note = f"{steps} steps an epoch, metrics, tracking and checkpoint included"
    yield row(part, "step", "", "beyond the bare loop", beyond, "ms", note=note)
    yield row(part, "tracking", "", "gluonexp", shares, "% of an epoch", "<= 1 %")


def start_up(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Compare the time from the command to the first batch."""
    part, rounds = "start-up: from the command to the first batch", 1 if quick else 3
    digits, light, why = [], [], ""
    for at in range(rounds):
        say(f"start-up: round {at + 1} of {rounds}")
        digits.append(startup.digits(folder))
        if not why:
            try:
                light.append(startup.lightning(folder))
            except Missing as error:
                why = str(error)
    yield row(part, "small CNN, made-up images", "", "gluonexp", digits, "s")
    if light:
        yield row(part, "small CNN, made-up images", "", "Lightning, MLFlowLogger", light, "s")
    else:
        yield Row(part, "", "", "Lightning, MLFlowLogger", None, "", note=f"not measured: {why}")
    name = "AlexNet on CIFAR-10 (JPEG)"
    if quick:
        yield Row(part, name, "", "gluonexp", None, "", note="not measured by --quick")
        return
    say("start-up: all features of CIFAR-10 are computed once")
    try:
        times = startup.second_run(folder, "bfloat16")
    except Missing as error:
        yield Row(part, name, "", "gluonexp", None, "", note=f"not measured: {error}")
        return
    first, second, made_up = times["first"], times["second"], times["synthetic"]
    yield row(part, name, "bfloat16", "gluonexp, first run", [first], "s")
    yield row(part, name, "bfloat16", "gluonexp, second run", [second], "s")
    more, note = second - made_up, "second run against dataset=synthetic"
    yield row(part, name, "bfloat16", "gluonexp", [more], "s more", "<= 3 s", note)


if __name__ == "__main__":
    main()
