"""What a run says on the terminal: the plan before, the results after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gluonexp.build import Data, Pretrained
from gluonexp.freeze import Plan, PlanRow
from gluonexp.predict import Prediction
from gluonexp.runtime import redact

# A deeper network's plan is summed up; every row is in plan/layers.csv.
LONGEST_PLAN = 24


def weights(console: Console, pretrained: Pretrained | None) -> None:
    """Say where the network's first parameters came from."""
    if pretrained is None:
        return
    if pretrained.warning is not None:
        warning = f"[yellow]warning:[/yellow] {escape(pretrained.warning)}"
        console.print(warning, highlight=False, soft_wrap=True)
    digest = f" (sha256 {pretrained.sha256[:12]})" if pretrained.sha256 else ""
    line = f"weights: {pretrained.title}{digest}; taken: {pretrained.taken}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def plan(console: Console, plan: Plan) -> None:
    """Print how each parameter trains."""
    rows = plan.rows
    if len(rows) <= LONGEST_PLAN:
        table = Table(box=None, pad_edge=False)
        for heading in ("parameter", "layer", "shape", "size", "", "lr x", "FLOPs"):
            left = heading in ("parameter", "layer", "shape", "")
            table.add_column(heading, justify="left" if left else "right")
        for row in rows:
            shape = " x ".join(map(str, row.shape))
            cells = row.parameter, row.layer, shape, f"{row.size:,}", _state(row)
            share = f"{row.flops_share:.1%}" if row.flops_share else ""
            table.add_row(*cells, f"{row.lr_mult:g}", share)
        console.print(table)
    sizes = {"trained": 0, "frozen": 0, "statistic": 0}
    for row in rows:
        sizes[row.state] += row.size
    parts = [f"{size:,} {state}" for state, size in sizes.items() if size]
    console.print(f"{len(rows)} parameters: {', '.join(parts)}", highlight=False)
    for note in plan.notes:
        console.print(f"  note: {note}", highlight=False, markup=False)


def _state(row: PlanRow) -> str:
    until = "" if row.unfreeze_epoch is None else f" until epoch {row.unfreeze_epoch}"
    return f"{row.state}{until}"


def data(console: Console, data: Data) -> None:
    """Print which data, and how many of each split."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits().items())
    line = f"{data.title}: {sizes} images of {len(data.classes)} classes ({data.digest[:12]})"
    console.print(line, highlight=False)
    for note in data.notes:
        console.print(f"  note: {note}", highlight=False)


def stopped(console: Console, reason: str | None) -> None:
    """Say why training ended before its last epoch, if it did."""
    if reason is not None:
        console.print(f"stopped early: {reason}", highlight=False)


def result(console: Console, metrics: Mapping[str, float], epoch: int) -> None:
    """Print loss and accuracy of the best epoch's network on each split."""
    table = Table(title=f"best epoch: {epoch}", title_justify="left", box=None, pad_edge=False)
    for heading in ("split", "loss", "accuracy"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in ("train", "val", "test"):
        if f"{split}/acc" in metrics:
            loss, accuracy = metrics[f"{split}/loss"], metrics[f"{split}/acc"]
            table.add_row(split, f"{loss:.4f}", f"{accuracy:.4f}")
    console.print(table)


def suggestion(console: Console, lr: float, command: str) -> None:
    """Print the learning rate that a search came to, and how to train with it."""
    console.print(f"suggestion: optim.lr={lr:.3g}, where the loss fell fastest", highlight=False)
    console.print(f"  train:   {command}", highlight=False, markup=False, soft_wrap=True)


def untracked(console: Console, artifacts: Path) -> None:
    """Say where the artifacts are that no store keeps."""
    console.print(
        f"not tracked; the artifacts are in {artifacts}", highlight=False, soft_wrap=True
    )


def tracked(
    console: Console, run_id: str, *, link: str | None, uri: str | None, exported: bool
) -> None:
    """Print the run's id and status, and the commands that go on from it."""
    store = f" --tracking-uri {redact(uri)}" if uri else ""
    lines = [f"run {run_id} FINISHED", f"  see it:  {link or f'gluonexp ui{store}'}"]
    if exported:
        lines.append(f"  use it:  gluonexp predict {run_id[:8]}{store}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def predictions(console: Console, answers: Sequence[Prediction]) -> None:
    """Print one row an image."""
    known = any(answer.true_name is not None for answer in answers)
    table = Table(box=None, pad_edge=False)
    for heading in ("image", "predicted", "probability", *(["true"] if known else [])):
        table.add_column(heading, justify="right" if heading == "probability" else "left")
    for answer in answers:
        image = "/".join(answer.path.parts[-2:])
        true = [answer.true_name or ""] if known else []
        table.add_row(image, answer.name, f"{answer.probability:.4f}", *true)
    console.print(table)
