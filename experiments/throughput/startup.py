"""How long it takes from the command to the first batch, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from material import whole
from sides import Missing

HERE = Path(__file__).parent
SEARCH = ("trainer=lr_find", "trainer.lr_find.steps=50")  # trains, and ends soon


def digits(folder: Path) -> float:
    """Return the seconds of a run on images that are made on the spot."""
    return _ours(folder, "dataset=synthetic", "trainer.epochs=1", "export=none")


def lightning(folder: Path) -> float:
    """Return the seconds of Lightning's shortest run, with MLFlowLogger."""
    started = time.time()
    done = _run([str(HERE / "with_lightning.py"), str(folder)], folder)
    return float(_found(r"first batch at (\S+)", done)) - started


def second_run(folder: Path, precision: str) -> dict[str, float]:
    """Return the seconds until AlexNet trains on features that are in the cache already.

    Returns
    -------
    dict
        ``first`` computes them; ``second`` finds those of all of CIFAR-10; ``synthetic`` those of
        a few made-up images.
    """
    if whole() is None:
        raise Missing("needs all of CIFAR-10 (JPEG): GLUONEXP_DATA names its folder")
    kept = (*SEARCH, f"features.folder={folder}/features", f"features.precision={precision}")
    recipe = ("experiment=cifar10_alexnet", "features.cache=on", *kept)
    synthetic = (*recipe, "dataset=synthetic", "dataset.resize=224", "dataset.channels=3")
    _ours(folder, *synthetic)
    return {
        "first": _ours(folder, *recipe, "dataset=cifar10_images"),
        "second": _ours(folder, *recipe, "dataset=cifar10_images"),
        "synthetic": _ours(folder, *synthetic),
    }


def _ours(folder: Path, *overrides: str) -> float:
    store = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    job = f"hydra.run.dir={folder}/jobs/{time.time_ns()}"
    done = _run(["-m", "gluonexp.run", "device=cpu", store, job, *overrides], folder)
    return float(_found(r"first batch after (\S+) s", done))


def _run(command: Sequence[str], folder: Path) -> str:
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}  # decoded images are kept there
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, **cache}
    )
    if done.returncode:
        raise Missing(f"{command[-1]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern!r} in {text[-2000:]}")
    return found[1]
