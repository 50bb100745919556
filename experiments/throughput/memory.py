"""Memory of a run that trains on cached features: what is not backed by files, epoch by epoch.

A cache of the size asked for is made, and AlexNet's classifier is trained behind it. RssAnon is of
the pages that are the process's own; those of the memory map are the system's, which drops them
when it needs room.

usage: python experiments/throughput/memory.py [--gigabytes 2] [--epochs 20] [--images 640]
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from rich.console import Console

from gluonexp import run
from gluonexp.base.errors import GluonexpError
from gluonexp.experiment.opening import opened
from gluonexp.training import callbacks, loop

FEATURES = 9216  # float32 values of an image, behind AlexNet's convolutions
GROWTH, DRIFT = 200.0, 20.0  # MB: from the first step on, and within the later epochs
SETTLED = 3  # epochs


def rss_anon() -> float:
    """Return the memory of this process that no file backs, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1000


class Watch(loop.Callback):
    """Notes the memory after the first step, and after each epoch."""

    def __init__(self, console: Console) -> None:
        self.first = 0.0
        self.epochs: list[float] = []
        self._console = console

    def batch_end(self, fit: loop.Fit) -> None:
        """Note it once."""
        if fit.step == 1:
            fit.engine.sync()
            self.first = rss_anon()

    def epoch_end(self, fit: loop.Fit) -> None:
        """Note it, and say it."""
        self.epochs.append(rss_anon())
        self._console.print(f"epoch {fit.epoch}: {self.epochs[-1]:,.0f} MB", highlight=False)


def watched(console: Console, folder: Path, images: int, epochs: int, precision: str) -> Watch:
    """Train on the features of so many made-up images."""
    config = run.compose(
        *("experiment=cifar10_alexnet", "dataset=synthetic", "device=cpu", "tracking=none"),
        *("dataset.resize=224", "dataset.channels=3", "dataset.source.size=32"),
        *("dataset.source.channels=3", f"dataset.source.train={images}"),
        *(f"trainer.epochs={epochs}", "optim.momentum=0.9", "features.cache=on"),
        *(f"features.folder={folder}/features", f"features.precision={precision}"),
    )
    watch = Watch(console)
    with opened(config, folder / "job", (), Console(quiet=True)) as job:
        before = rss_anon()
        train = job.shortcut.enter(0, {"train": job.data.train})["train"]
        size = images * FEATURES * 4 / 1e9
        now = rss_anon()
        console.print(
            f"{size:.2f} GB of features; {now:,.0f} MB, {now - before:+,.0f} to make them"
        )
        kept = [one for one in job.components.callbacks if isinstance(one, callbacks.Checkpoint)]
        loop.fit(job.engine, train, {}, job.settings, [watch, *kept])
        job.shortcut.leave()
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the large cache")
    parser.add_argument("--epochs", type=int, default=20, help="on the small cache")
    parser.add_argument("--images", type=int, default=640, help="of the small cache")
    options = parser.parse_args()
    console = Console()
    large = int(options.gigabytes * 1e9 / (4 * FEATURES))
    failed = False
    for images, epochs in ((options.images, options.epochs), (large, 2)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                watch = watched(console, Path(folder), images, epochs, "bfloat16")
            except GluonexpError:  # no OpenVINO, or a processor without bfloat16
                watch = watched(console, Path(folder), images, epochs, "float32")
        growth = watch.epochs[-1] - watch.first
        later = watch.epochs[SETTLED:]
        drift = max(later) - min(later) if later else 0.0
        console.print(
            f"{images:,} images, {epochs} epochs: {growth:+,.0f} MB since the first step "
            f"(at most {GROWTH:,.0f}); {drift:,.0f} MB between epochs from the {SETTLED + 1}th on "
            f"(at most {DRIFT:,.0f})",
            soft_wrap=True,
        )
        failed |= growth > GROWTH or drift > DRIFT
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
