"""AlexNet fine-tuned at 224 pixels: parts are measured on all sides, whole runs worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import material
from results import Row, row
from sides import WHOLE, Costs, Side, start

SETTINGS = ("float32, momentum 0", "float32, momentum 0.9", "bfloat16, momentum 0.9")
OURS, TUTORIAL, PYTORCH = "gluonexp", "tutorial", "PyTorch"
LIVE = "gluonexp, live test too"
CACHED, LIGHTNING = "PyTorch, features kept by hand", "Lightning, MLFlowLogger"
TOTALS = "AlexNet: time of the side over gluonexp's"
RUNS = {  # epochs and runs
    "1 epoch + test": (1, 1),
    "5 epochs + test": (5, 1),
    "sweep of 4 x 3 epochs + test": (3, 4),
}
ASKED = {
    (SETTINGS[0], TUTORIAL): (1.35, 3.2, 4.0),
    (SETTINGS[0], PYTORCH): (1.2, 2.8, 3.5),
    (SETTINGS[1], TUTORIAL): (1.3, 2.7, 3.4),
    (SETTINGS[2], TUTORIAL): (3.2, 3.5, 3.9),
    (SETTINGS[2], PYTORCH): (1.6, 2.0, 2.2),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured: rounds, images of training and of the test split."""

    rounds: int
    train: int
    test: int

    def sentence(self) -> str:
        """Say what is measured of what."""
        return (
            f"measured on {self.train:,} training and {self.test:,} test images in each round, "
            f"scaled to {WHOLE.train:,} and {WHOLE.test:,} by their number"
        )


Measured = dict[tuple[str, str], Costs]
"""What each side costs in a setting, in one round."""


def compare(folder: Path, sizes: Sizes, say: Callable[[str], None]) -> Iterator[Row]:
    """Measure all sides in turns; yield the rows."""
    part = folder / "part"
    title = material.part(part, 2 * sizes.train, sizes.test)  # gluonexp is fast: twice as many
    say(f"AlexNet: {title}, {sizes.sentence()}")
    weights = folder / "weights.npz"
    ours, _ = start({OURS: ("ours:Ours", part, folder)}, folder)
    ours[OURS].call("save_weights", weights)
    others = {
        TUTORIAL: ("tutorial:Tutorial", part, weights),
        PYTORCH: ("eager:Eager", part, weights),
        LIGHTNING: ("with_lightning:Lightning", part, weights, folder),
    }
    started, missing = start(others, folder)
    sides = {**ours, **started}
    lacks = sides[OURS].call("without_bfloat16")
    rounds: list[Measured] = []
    try:
        for at in range(sizes.rounds):
            say(f"AlexNet: round {at + 1} of {sizes.rounds}")
            rounds.append(_round(sides, sizes, bfloat16=not lacks))
        engine = sides[OURS].call("engine")
    finally:
        for side in sides.values():
            side.close()
    note = f"{title}, rounds: {sizes.rounds}; {sizes.sentence()}; features by {engine}"
    yield Row(TOTALS, "all", "", "", None, "", note=note)
    yield from _totals(rounds)
    yield from _rates(rounds)
    for side, why in missing.items():
        yield Row(TOTALS, "", "", side, None, "", note=f"not measured: {why}")
    if lacks:
        yield Row(TOTALS, "", SETTINGS[2], OURS, None, "", note=f"not measured: {lacks}")


def _round(sides: dict[str, Side], sizes: Sizes, bfloat16: bool) -> Measured:
    """Measure everything once, the sides in turns."""
    ours, tutorial = sides[OURS], sides[TUTORIAL]
    torch, light = sides.get(PYTORCH), sides.get(LIGHTNING)
    train, test = sizes.train, sizes.test
    plain, momentum, fast = SETTINGS
    found: Measured = {}
    tested: dict[str, float] = {}
    kept: dict[str, float] = {}

    def eager(setting: str, precision: str, rate: float) -> None:
        seconds = torch.call("train", precision, rate, train)
        if precision not in tested:
            tested[precision] = torch.call("test", precision, test)
            kept[precision] = torch.call("compute", precision, train)
        read = torch.call("read")
        found[PYTORCH, setting] = Costs(seconds, tested[precision], read=read)
        head = torch.call("train_cached", precision, rate)
        scored = torch.call("test_cached", precision)
        found[CACHED, setting] = Costs(head, scored, read=read, once=kept[precision])

    def mine(setting: str, features: dict[str, float], opened: str) -> None:
        head, score = ours.call("train", opened), ours.call("score", opened)
        found[OURS, setting] = Costs(test=score, read=read, **features, **head)

    read = ours.call("read")
    features = ours.call("compute", "float32")
    seconds, scored = tutorial.call("train", 0.0, train), tutorial.call("test", test)
    found[TUTORIAL, plain] = Costs(seconds, scored)
    mine(plain, features, "float32")
    if torch:
        eager(plain, "float32", 0.0)
    live = ours.call("live", "float32", test)
    if light:
        seconds = light.call("train", 0.0, train)
        found[LIGHTNING, plain] = Costs(seconds, light.call("test", test))
    found[TUTORIAL, momentum] = Costs(tutorial.call("train", 0.9, train), scored)
    quick = ours.call("compute", "bfloat16") if bfloat16 else None
    mine(momentum, features, "bfloat16")
    if torch:
        eager(momentum, "float32", 0.9)
    if quick:
        found[TUTORIAL, fast] = found[TUTORIAL, momentum]
        found[OURS, fast] = replace(found[OURS, momentum], **quick)
        if torch:
            eager(fast, "bfloat16", 0.9)
    for setting in SETTINGS:  # as a run ends: the whole network scores the test split again
        if (OURS, setting) in found:
            costs = found[OURS, setting]
            found[LIVE, setting] = replace(costs, test=costs.test + live)
    return found


def _totals(rounds: list[Measured]) -> Iterator[Row]:
    for setting in dict.fromkeys(setting for _, setting in rounds[0]):
        sides = [side for side, of in rounds[0] if of == setting]
        others = [side for side in sides if side not in (OURS, LIVE)]
        for at, (name, (epochs, runs)) in enumerate(RUNS.items()):
            times = {
                side: [costs[side, setting].seconds(epochs, runs) for costs in rounds]
                for side in sides
            }
            for side in (OURS, LIVE):
                yield row(TOTALS, name, setting, side, times[side], "s")
            for side in others:
                ratios, live = (
                    [other / own for other, own in zip(times[side], times[us], strict=True)]
                    for us in (OURS, LIVE)
                )
                asked = ASKED.get((setting, side))
                target = f">= {asked[at]:g}" if asked else ""
                with_live = row(TOTALS, name, setting, side, live, "x").value
                remark = f"{with_live:.3g} x live test too"
                yield row(TOTALS, name, setting, side, ratios, "x", target, remark)


def _rates(rounds: list[Measured]) -> Iterator[Row]:
    part = "AlexNet: images a second, and seconds"
    parts = {
        "training": "train",
        "test": "test",
        "reading, once": "read",
        "features, once": "once",
    }
    for side, setting in rounds[0]:
        costs = [measured[side, setting] for measured in rounds]
        if side == LIVE:
            live = [
                1 / (one.test - other[OURS, setting].test)
                for one, other in zip(costs, rounds, strict=True)
            ]
            yield row(part, "test by the whole network", setting, OURS, live, "images/s")
            continue
        for name, field in parts.items():
            values = [getattr(one, field) for one in costs]
            if all(values):
                rates = [1 / value for value in values]
                yield row(part, name, setting, side, rates, "images/s")
        for name, field in (
            ("start of a run that computes features", "start"),
            ("start of a run that finds them", "again"),
            ("end of an epoch", "epoch"),
        ):
            values = [getattr(one, field) for one in costs]
            if all(values):
                yield row(part, name, setting, side, values, "s")
