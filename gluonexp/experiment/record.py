"""What a run writes down: the files of its artifact folder, its parameters and tags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image

from gluonexp.assembly import Data
from gluonexp.assembly.networks import Network, Pretrained
from gluonexp.base.files import sha256, write_text
from gluonexp.base.measures import Reliability
from gluonexp.base.provenance import Provenance
from gluonexp.base.secrets import hidden, hidden_words
from gluonexp.base.text import in_shell
from gluonexp.config.schema import Config
from gluonexp.data.split import spread
from gluonexp.data.types import Batch, Split
from gluonexp.experiment.resume import Earlier
from gluonexp.freeze import FreezePlan
from gluonexp.inference.predict import folder_names
from gluonexp.report import plots
from gluonexp.report.reliability import draw as draw_reliability
from gluonexp.tracking import Tracker, UsedData
from gluonexp.training import checkpoint as checkpoints
from gluonexp.training.engine import Engine
from gluonexp.training.job_folder import CHECKPOINTS

# MXNet's own format, which any MXNet program reads.
GLUON_PARAMETERS = "model.params"

# One example image a class, for at most so many classes.
EXAMPLES = 20

# Images on which an engine proves itself: more make rounding no clearer.
PROOF = 16


def config(folder: Path, settings: Config, overrides: Sequence[str], origin: Provenance) -> None:
    """Write ``config/``: what was asked for, typed, from which code, on what machine."""
    target = _made(folder / "config")
    _yaml(target / "resolved.yaml", asdict(settings))
    _yaml(target / "overrides.yaml", hidden_words(overrides))
    environment(folder, origin)


def environment(folder: Path, origin: Provenance) -> None:
    """Write of ``config/`` what tells of the code, the machine and the versions."""
    target = _made(folder / "config")
    known = asdict(origin)
    diff = known.pop("git_diff")
    text = json.dumps(known, indent=2, default=str)
    (target / "environment.json").write_text(text + "\n", encoding="utf-8")
    if diff:
        (target / "git.diff").write_text(diff, encoding="utf-8")


def layers(folder: Path, plan: FreezePlan) -> None:
    """Write ``plan/layers.csv``: how each parameter trains."""
    table = pd.DataFrame([asdict(row) for row in plan.rows])
    table["shape"] = ["x".join(map(str, row.shape)) for row in plan.rows]
    table["unfreeze_epoch"] = table["unfreeze_epoch"].astype("Int64")
    table.to_csv(_made(folder / "plan") / "layers.csv", index=False)


def samples(folder: Path, data: Data) -> None:
    """Write ``data/``: a labelled grid, and one held-out image file of each class."""
    target = _made(folder / "data")
    train = data.train
    plots.sample_grid(
        train.images, train.labels, data.classes, target / "samples.png", title=data.title
    )
    _, held_out = data.held_out()
    for label, place in enumerate(folder_names(data.classes)[:EXAMPLES]):
        positions = np.flatnonzero(held_out.labels == label)
        if len(positions):
            index = int(positions[0])
            image = held_out.images[index]
            example = _made(target / "examples" / place) / f"{index:05d}.png"
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(example)


def parameters(
    settings: Config, data: Data, plan: FreezePlan, pretrained: Pretrained | None
) -> dict[str, object]:
    """Return the run's parameters: the configuration, and the sizes that follow from it."""
    named = asdict(settings)
    # These say where and under which name a run is kept, not what it computes.
    del named["tracking"], named["build"], named["sweep"], named["notify"]
    del named["features"]["folder"], named["features"]["budget_gb"]
    if not settings.metrics.names:  # as runs have it of before there were others
        del named["metrics"]
    came_from = {} if pretrained is None else {"weights": asdict(pretrained)}
    return {
        **named,
        **came_from,
        "data": {
            "title": data.title,
            "digest": data.digest,
            "classes": len(data.classes),
            **{f"{name}_images": len(split) for name, split in data.splits().items()},
        },
        "network": {
            "parameters": sum(row.size for row in plan.rows),
            "trained": sum(row.size for row in plan.rows if row.state == "trained"),
        },
    }


def tags(origin: Provenance, overrides: Sequence[str], device: str) -> dict[str, str]:
    """Return the run's tags: where it ran and from which code."""
    named = {
        "git_commit": origin.git_commit,
        "git_dirty": None if origin.git_dirty is None else str(origin.git_dirty).lower(),
        "code": origin.code,
        "device": device,
        "overrides": in_shell(*hidden_words(overrides)),
    }
    return {f"gluonexp.{name}": value for name, value in named.items() if value}


def curves(folder: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """Write ``metrics/history.csv`` and ``plots/curves.png``."""
    table = pd.DataFrame(history)
    table["epoch"] = table["epoch"].astype(int)
    table.to_csv(_made(folder / "metrics") / "history.csv", index=False)
    plots.curves(table, _made(folder / "plots") / "curves.png", title=title)


def predictions(
    folder: Path,
    name: str,
    split: Split,
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    """Write ``predictions/<name>.csv`` in data-set order, confusion matrix and worst mistakes."""
    predicted = probabilities.argmax(axis=1)
    top = probabilities.max(axis=1)
    names = np.asarray(classes, dtype=object)
    pd.DataFrame(
        {
            "index": np.arange(len(split)),
            "label": split.labels,
            "predicted": predicted,
            "probability": top.round(6),
            "label_name": names[split.labels],
            "predicted_name": names[predicted],
        }
    ).to_csv(_made(folder / "predictions") / f"{name}.csv", index=False)
    target = _made(folder / "plots")
    plots.confusion_matrix(split.labels, predicted, classes, target / "confusion_matrix.png")
    plots.worst_mistakes(
        split.images, split.labels, predicted, top, classes, target / "worst_mistakes.png"
    )


def reliability(folder: Path, name: str, split: Split, probabilities: NDArray[np.float64]) -> None:
    """Write ``plots/reliability.png``: whether the network is right as often as it is sure."""
    found = Reliability.of(probabilities, split.labels)
    draw_reliability(found, folder / "plots" / "reliability.png", f"{name} split")


def checkpoint(folder: Path, net: Network, workdir: Path) -> None:
    """Write ``checkpoint/``: Gluon's parameters of the best network, and its checkpoint's meta."""
    best = workdir / CHECKPOINTS / "best"
    if checkpoints.find(best) is None:
        return
    target = _made(folder / "checkpoint")
    net.save_parameters(str(target / GLUON_PARAMETERS))
    meta = checkpoints.read_meta(best)
    del meta["updates"]  # the optimizer's
    meta["sha256"] = {GLUON_PARAMETERS: sha256(target / GLUON_PARAMETERS)}
    text = json.dumps(meta, indent=2)
    (target / checkpoints.META).write_text(text + "\n", encoding="utf-8")


def proof(tracker: Tracker, engine: Engine, train: Split) -> None:
    """Let the engine prove itself on a few training images, and record what was found."""
    chosen = train.select(spread(train.labels, PROOF))
    tracker.log_tags(engine.prove(Batch(chosen.images[:], chosen.labels, chosen.labels)))


def resumed(tracker: Tracker, before: Earlier, switch: str | None) -> None:
    """Record the epochs of the earlier training, where they are from, and a switch of engines."""
    for row in before.history:
        metrics = {key: value for key, value in row.items() if key != "epoch"}
        tracker.log_metrics(metrics, step=int(row["epoch"]))
    earlier = before.owner.run_id
    source = str(before.folder) if earlier in (None, tracker.run_id) else earlier
    tracker.log_tags({"gluonexp.resumed_from": source})
    if switch is not None:
        tracker.log_tags({"gluonexp.engine.switch": switch})


def datasets(tracker: Tracker, settings: Config, data: Data) -> None:
    """Record each split as an input of the run."""
    contexts = {"train": "training", "val": "validation", "test": "testing"}
    for name, split in data.splits().items():
        used = UsedData(
            # MLflow keeps one input for each name and digest: the split belongs to the name.
            name=f"{settings.dataset.name}/{name}",
            digest=data.digest,
            context=contexts[name],
            source=data.title,
            rows=len(split),
            shape=split.images.shape[1:],
            classes=data.classes,
        )
        tracker.log_dataset(used)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _yaml(path: Path, value: object) -> None:
    text = yaml.safe_dump(hidden(value), sort_keys=False, allow_unicode=True, width=1000)
    write_text(path, text)  # a run goes on by it, so it is there whole or not at all
