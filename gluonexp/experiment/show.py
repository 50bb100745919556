"""What a run says on the terminal: the plan before, the results after."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gluonexp.assembly import Data
from gluonexp.assembly.networks import Pretrained
from gluonexp.base.text import digits, store_option, tell
from gluonexp.config.overrides import typed
from gluonexp.features.outlook import Outlook
from gluonexp.freeze import FreezePlan, FreezeRow
from gluonexp.models.outline import STATISTICS
from gluonexp.tracking.registry import Registered
from gluonexp.training import checkpoint

# A longer plan is summed up; every row is in plan/layers.csv.
LONGEST_PLAN = 24

_MAIN = ("loss", "acc")  # metrics of every split, each under a heading of its own


def weights(console: Console, pretrained: Pretrained | None, plan: FreezePlan) -> None:
    """Say where the network's first parameters came from."""
    if pretrained is None:
        return
    warnings = [pretrained.warning] if pretrained.warning is not None else []
    frozen = [row.parameter for row in plan.rows if row.state == "frozen"]
    if "head" not in pretrained.taken and any(name.startswith("head.") for name in frozen):
        warnings.append(
            "frozen layers of the head are new, and stay random; freeze=features trains all of it"
        )
    for text in warnings:
        tell(console, Text.assemble(("warning:", "yellow"), f" {text}"))
    digest = f" (sha256 {pretrained.sha256[:12]})" if pretrained.sha256 else ""
    tell(console, f"weights: {pretrained.title}{digest}; taken: {pretrained.taken}")


def plan(console: Console, plan: FreezePlan, outlook: Outlook | None = None) -> None:
    """Print how each parameter trains; of a deep network, layers that train alike in one line."""
    rows = plan.rows
    deep = len(rows) > LONGEST_PLAN
    table = Table(box=None, pad_edge=False)
    table.add_column("layers" if deep else "parameter", no_wrap=True, overflow="fold")
    for heading in ("layer", "shape", ""):
        table.add_column(heading, no_wrap=not heading)
    for heading in ("size", "lr x", "FLOPs"):
        table.add_column(heading, justify="right")
    for name, alike in _alike(rows) if deep else [(row.parameter, [row]) for row in rows]:
        only = alike[0] if len(alike) == 1 else None
        learning = [row for row in alike if not _is_statistic(row)] or alike
        share = sum(row.flops_share for row in alike)
        table.add_row(
            Text(name),
            only.layer if only else f"{len(alike)} parameters",
            "x".join(map(str, only.shape)) if only else "",
            _distinct(_state(row) for row in learning),
            f"{sum(row.size for row in alike):,}",
            _distinct(f"{row.lr_mult:.3g}" for row in learning),
            f"{share:.1%}" if share else "",
        )
    console.print(table)
    sizes = {"trained": 0, "frozen": 0, "statistic": 0}
    for row in rows:
        sizes[row.state] += row.size
    parts = [f"{size:,} {state}" for state, size in sizes.items() if size]
    tell(console, f"{len(rows)} parameters: {', '.join(parts)}")
    for text in plan.notes:
        note(console, text)
    if outlook is not None and (line := outlook.sentence()) is not None:
        tell(console, line)


def _alike(rows: Sequence[FreezeRow]) -> list[tuple[str, list[FreezeRow]]]:
    """Return runs of layers, such as ``backbone.0 to 7``, whose parameters all train alike."""
    layers: dict[str, list[FreezeRow]] = {}
    for row in rows:
        path = row.parameter.split(".")[:-1]
        layers.setdefault(".".join(path[:2]), []).append(row)

    def how(item: tuple[str, list[FreezeRow]]) -> tuple[object, ...]:
        name, members = item
        states = {(_state(row), row.lr_mult) for row in members if not _is_statistic(row)}
        return name.rpartition(".")[0], sorted(states)

    runs = []
    for _, together in itertools.groupby(layers.items(), how):
        names, members = zip(*together, strict=True)
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1].rpartition('.')[2]}"
        runs.append((name, list(itertools.chain(*members))))
    return runs


def _distinct(texts: Iterable[str]) -> str:
    """Join what differs, in its order; mostly that is one text."""
    return ", ".join(dict.fromkeys(texts))


def _is_statistic(row: FreezeRow) -> bool:
    return row.parameter.endswith(STATISTICS)


def _state(row: FreezeRow) -> str:
    until = "" if row.unfreeze_epoch is None else f" to epoch {row.unfreeze_epoch}"
    return f"{row.state}{until}"


def data(console: Console, data: Data) -> None:
    """Print which data, and how many of each split."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits().items())
    count, digest = len(data.classes), data.digest[:12]
    tell(console, f"{data.title}: {sizes} images of {count} classes ({digest})")
    for text in data.notes:
        note(console, text)


def stopped(console: Console, reason: str) -> None:
    """Say why training ended before its last epoch, if it did."""
    if reason:
        tell(console, f"stopped early: {reason}")


def note(console: Console, text: str) -> None:
    """Print something a reader of the run should know."""
    tell(console, f"  note: {text}")


def set_aside(console: Console, folders: Sequence[Path]) -> None:
    """Say where went what an unfinished run had left that used this folder before."""
    for folder in folders:
        kind, resume = "files", ""
        if newest := checkpoint.newest(folder):
            kind, resume = "checkpoints", f" ({typed('trainer.resume', str(newest[0]))})"
        note(console, f"an unfinished run left {kind} here; they are in {folder} now{resume}")


def result(console: Console, metrics: Mapping[str, float], epoch: int) -> None:
    """Print loss, accuracy and other metrics of the best epoch's network on each split."""
    held_out = [key.split("/") for key in metrics if key.startswith(("val/", "test/"))]
    extra = [name for name in dict.fromkeys(name for _, name in held_out) if name not in _MAIN]
    table = Table(title=f"best epoch: {epoch}", title_justify="left", box=None, pad_edge=False)
    for heading in ("split", "loss", "accuracy", *extra):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("train", "val", "test"):
        if f"{split}/acc" in metrics:
            loss, accuracy = metrics[f"{split}/loss"], metrics[f"{split}/acc"]
            others = (digits(metrics.get(f"{split}/{name}")) for name in extra)
            table.add_row(split, f"{loss:.4f}", f"{accuracy:.4f}", *others)
    console.print(table)


def suggestion(console: Console, lr: float) -> None:
    """Print the learning rate that a search suggests, and how to use it."""
    tell(console, f"suggestion: optim.lr={lr:.3g} instead of trainer=lr_find, in the same command")


def registered(console: Console, version: Registered | None) -> None:
    """Say under which name the model was registered, and whether it is the champion."""
    if version is not None:
        tell(console, version.sentence)


def untracked(console: Console, artifacts: Path) -> None:
    """Say where the artifacts are that no store keeps."""
    tell(console, f"not tracked; the artifacts are in {artifacts}")


def tracked(
    console: Console,
    run_id: str,
    status: str,
    *,
    link: str | None,
    uri: str | None,
    exported: bool,
    sent: bool = True,
) -> None:
    """Print the run's id and status, and the commands to look at it and to use it."""
    store = store_option(uri)
    lines = [f"run {run_id} {status}"]
    if sent:
        lines.append(f"  see it:  {link or f'gluonexp ui{store}'}")
    if exported:
        lines.append(f"  use it:  gluonexp predict {run_id[:8]}{store}")
    tell(console, "\n".join(lines))
