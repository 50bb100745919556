"""The end of a run whose own process did not, or could not, end it."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking import owner
from gluonexp.tracking.statuses import KILLED
from gluonexp.tracking.store import reported
from gluonexp.tracking.values import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_OF_EPOCHS: Final = "train/loss"  # a metric that every epoch has


def bury(
    client: MlflowClient, run_id: str, reason: str, status: str = KILLED, trace: str | None = None
) -> None:
    """End a run that is still RUNNING; what it recorded stays, and how far it came is noted.

    It ends when its process last gave a sign of life. A run that has ended already gets the
    reason alone, where it has none.

    Parameters
    ----------
    reason
        Why, in one line.
    status
        FAILED or KILLED.
    trace
        The traceback of a failure.

    Raises
    ------
    GluonexpError
        The store does not answer.
    """
    with reported(f"run {run_id} cannot be marked {status}"):
        run = client.get_run(run_id)
        if "error" not in run.data.tags:
            client.set_tag(run_id, "error", one_line(hide(readable(reason)), 500))
            if trace:
                client.log_text(run_id, hide(readable(trace)), "error/traceback.txt")
        if run.info.status not in ("RUNNING", "SCHEDULED"):
            return
        now = datetime.now(timezone.utc)
        ours = owner.own_tags()
        client.set_tag(run_id, owner.BURIED, f"{owner.name(ours)}, {now:%Y-%m-%d %H:%M} UTC")
        if (reached := _reached(client, run)) is not None:
            client.set_tag(run_id, owner.REACHED, reached)
        client.set_terminated(run_id, status, _last_sign(client, run))


def _reached(client: MlflowClient, run: Run) -> str | None:
    """Say how many epochs a run has recorded; None for one that trains none."""
    epochs = run.data.params.get("trainer.epochs")
    if epochs is None:
        return None
    points = []
    if _OF_EPOCHS in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, _OF_EPOCHS)
    return f"{len({point.step for point in points})} of {epochs} epochs"


def _last_sign(client: MlflowClient, run: Run) -> int:
    """Return when a run last gave a sign of life (ms since 1970)."""
    silent = owner.silence(run.data.tags)
    # A lease that is not overdue says no more than that the process was alive a moment ago.
    seconds = 0.0 if silent is None or silent < 2 * owner.RENEWED_S else silent
    return max(int(1000 * (time.time() - seconds)), int(run.info.start_time))
