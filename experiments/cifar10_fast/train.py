"""Train the recipe whole, and without each of its pieces, for five seeds; below ./mlruns.

One process trains all, a run after the other; those that have finished there are left out.
Arguments: how many seeds, if not five; overrides for every run.
"""

import sys
from datetime import datetime
from pathlib import Path

from gluonexp import experiment
from gluonexp import run as app
from gluonexp.base.errors import GluonexpError
from gluonexp.tracking.read.runs import reader

RECIPE = (
    *("experiment=cifar10_fast", "dataset=cifar10_images", "export=none"),
    *("engine=torch", "engine.precision=bfloat16"),
)
FROZEN = "{match: whiten.weight, state: frozen}"
FAST = "{match: '*bias', lr_mult: 16}, {match: '*beta', lr_mult: 16}"
LEFT_OUT = {
    "nothing": (),
    "whitening": ("model.whiten=false", f"freeze.rules=[{FAST}, {{match: '*'}}]"),
    "fast biases": (f"freeze.rules=[{FROZEN}, {{match: '*'}}]",),
    "label smoothing": ("loss.label_smoothing=0",),
    "alternating flips": ("augment.alternate=false",),  # in their place: at random
    "averaging": ("callbacks.ema=null",),
}
SEEDS = next((int(word) for word in sys.argv[1:] if word.isdigit()), 5)
OVERRIDES = [word for word in sys.argv[1:] if not word.isdigit()]


def finished() -> set[tuple[str, str]]:
    """Return name and seed of the runs that are recorded."""
    try:
        runs = reader(None).of_experiment("cifar10_fast")
    except GluonexpError:  # there is no store yet
        return set()
    return {(run.name, run.params["seed"]) for run in runs if run.status == "FINISHED"}


for seed in range(SEEDS):
    for name, changes in LEFT_OUT.items():
        if (name, str(seed)) in finished():
            continue
        named = (f"tracking.run_name={name}", f"seed={seed}")
        typed = (*RECIPE, *changes, *named, *OVERRIDES)
        folder = Path("mlruns/hydra") / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
        experiment.run(app.compose(*typed), folder, typed)
