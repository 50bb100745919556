"""The end of a run whose own process did not, or could not, end it."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hide
from gluonexp.base.text import readable
from gluonexp.tracking import internals, owner
from gluonexp.tracking.log import NAME, Log, in_use, note_sent, records, sent_as
from gluonexp.tracking.logs import Logged, read
from gluonexp.tracking.places import WORKDIR
from gluonexp.tracking.read.logged import as_recorded
from gluonexp.tracking.read.records import OWN_ID
from gluonexp.tracking.replay import Replay
from gluonexp.tracking.statuses import KILLED, UNFINISHED
from gluonexp.tracking.store import reported
from gluonexp.tracking.succession import Newer, has_gone_on
from gluonexp.tracking.values import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)

_OF_EPOCHS: Final = "train/loss"  # a metric that every epoch has


def bury(
    client: MlflowClient,
    run_id: str,
    reason: str,
    status: str = KILLED,
    trace: str | None = None,
    folder: Path | None = None,
) -> None:
    """End a run that is still RUNNING; what it recorded stays, and how far it came is noted.

    What its log has, if that is on this machine, is sent first: perhaps with the run's own end.
    Else it ends when its process last gave a sign of life. A run that has ended already gets the
    reason alone, where it has none.

    Parameters
    ----------
    reason
        Why, in one line.
    status
        FAILED or KILLED.
    trace
        The traceback of a failure.
    folder
        Where its log is if the store was never told.

    Raises
    ------
    GluonexpError
        The store does not answer.
    """
    with reported(f"run {run_id} cannot be marked {status}"):
        run = client.get_run(run_id)
        if run.info.status in UNFINISHED and _send_rest(client, run, folder):
            run = client.get_run(run_id)
            if run.info.status not in UNFINISHED:
                return
        if "error" not in run.data.tags:
            client.set_tag(run_id, "error", one_line(hide(readable(reason)), 500))
            if trace:
                client.log_text(run_id, hide(readable(trace)), "error/traceback.txt")
        if run.info.status not in UNFINISHED:
            return
        now = datetime.now(timezone.utc)
        ours = owner.own_tags()
        client.set_tag(run_id, owner.BURIED, f"{owner.name(ours)}, {now:%Y-%m-%d %H:%M} UTC")
        if (reached := _reached(client, run)) is not None:
            client.set_tag(run_id, owner.REACHED, reached)
        client.set_terminated(run_id, status, _last_sign(client, run))


def bury_offline(log: Logged, reason: str) -> str | None:
    """End, in its log, a run that no store has; return how far it came, if that is known.

    It ends KILLED, when it recorded something last.

    Raises
    ------
    GluonexpError
        Its log cannot be written, or a process writes it.
    """
    run, last = as_recorded(log), log.records[-1]["at"]
    epochs = run.params.get("trainer.epochs")
    reached = None if epochs is None else f"{log.steps(_OF_EPOCHS)} of {epochs} epochs"
    written = Log(log.file)
    try:
        known = {} if reached is None else {owner.REACHED: reached}
        written.append("tags", values={"error": one_line(hide(readable(reason)), 500), **known})
        written.append("status", status=KILLED, end=last, error=None)
        written.sync()
    finally:
        written.close()
    return reached


def _send_rest(client: MlflowClient, run: Run, folder: Path | None) -> bool:
    """Send what the log of a run has and its store has not; say whether there was a log."""
    file = Path(run.data.tags.get(WORKDIR) or folder or "", NAME)
    if not file.is_file() or in_use(file):
        return False
    try:
        own = next((entry["run"] for entry in records(file) if entry["kind"] == "open"), None)
        if own not in (run.info.run_id, run.data.tags.get(OWN_ID)):
            return False
        run_id = run.info.run_id
        after = sent_as(file, client.tracking_uri, run_id)
        newer = Newer(client, run_id) if has_gone_on(run, read(file)) else None
        replay = Replay(file, client, run_id, after=after, newer=newer)
        try:
            replay.send()
        finally:
            if replay.sent > after:
                note_sent(file, client.tracking_uri, run.info.run_id, replay.sent)
    except GluonexpError as error:
        if internals.is_away(error.__cause__):
            raise
        _log.warning("not all that run %s recorded was sent: %s", run.info.run_id, error)
    return True


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
