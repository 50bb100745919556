"""Which process a run belongs to, and whether that process is still at work on it.

A process of this host is looked for. For one of another host its lease speaks: a time that a run
renews every minute while its process lives (see `lease`).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from gluonexp.base.processes import is_alive, this_boot, this_process
from gluonexp.tracking.statuses import RUNNING
from gluonexp.tracking.values import sanitised

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The tags of a run that name its process.
HOST, PID, PROCESS = "gluonexp.host", "gluonexp.pid", "gluonexp.process"
BOOT, LEASE = "gluonexp.boot", "gluonexp.lease"
# The tag of a run that is to stop after the epoch that it is in: who wants that.
STOP: Final = "gluonexp.stop"
# The tags of a run that another process ended: which one, and when; and how far the run had come,
# as "3 of 20 epochs".
BURIED, REACHED = "gluonexp.buried", "gluonexp.reached"
OF_BURIALS: Final = (BURIED, REACHED)

RENEWED_S: Final = 60.0
# So long without a renewal, and a run of another host counts as lost.
EXPIRED_S: Final = 3 * RENEWED_S
# So long, and it is taken for dead: hosts go to sleep and wake up, networks are mended.
PATIENCE_S: Final = 30 * RENEWED_S


def own_tags() -> dict[str, str]:
    """Return the tags that say that a run belongs to this process."""
    return {
        HOST: platform.node(),
        PID: str(os.getpid()),
        PROCESS: this_process(),
        BOOT: this_boot(),
    }


def lease_tag() -> dict[str, str]:
    """Return the tag that says that the process is at work now."""
    return {LEASE: datetime.now(timezone.utc).isoformat(timespec="seconds")}


def name(tags: Mapping[str, str]) -> str:
    """Say which process a run belongs to."""
    return f"process {tags.get(PID)} on {tags.get(HOST)}"


def is_ours(tags: Mapping[str, str]) -> bool:
    """Say whether a run belongs to this process."""
    return all(tags.get(key) == value for key, value in own_tags().items() if key != BOOT)


def alive(tags: Mapping[str, str]) -> bool | None:
    """Say whether the process of a run lives; None if it is not of this host."""
    return is_alive(tags.get(HOST, ""), tags.get(BOOT, ""), tags.get(PROCESS, ""))


def silence(tags: Mapping[str, str]) -> float | None:
    """Return for how many seconds a run's lease was not renewed; None if it has none."""
    at = renewed(tags)
    return None if at is None else max(0.0, time.time() - at)


def renewed(tags: Mapping[str, str]) -> float | None:
    """Return when a run's lease was last renewed (s since 1970); None if it has none."""
    try:
        return datetime.fromisoformat(tags[LEASE]).timestamp()
    except (KeyError, ValueError):
        return None


def of_waiting(tags: Mapping[str, str], sweep: Mapping[str, str]) -> Mapping[str, str]:
    """Return a job's tags; while it waits for its process, the one that leads its sweep counts.

    Parameters
    ----------
    sweep
        The tags of its sweep, where each process that leads it has a lease.
    """
    leads = sweep.get(leading(tags))
    return tags if LEASE in tags or leads is None else {**tags, LEASE: leads}


def leading(tags: Mapping[str, str]) -> str:
    """Return the tag of a sweep that has the lease of the process which `tags` name."""
    return sanitised(f"{LEASE}.{tags.get(HOST)}.{tags.get(PROCESS)}")


def is_lost(tags: Mapping[str, str], patience_s: float = EXPIRED_S) -> bool:
    """Say whether a RUNNING run has lost its process, as far as can be told.

    Parameters
    ----------
    tags
        Of the run; one that names no process, as other programs record it, is not lost.
    patience_s
        How long the lease of another host's run may not have been renewed (seconds). Without a
        lease such a run is not lost.
    """
    if PROCESS not in tags:
        return False
    lives, silent = alive(tags), silence(tags)
    return not lives if lives is not None else silent is not None and silent > patience_s


def may_be_dead(tags: Mapping[str, str], forced: bool = False) -> bool:
    """Say whether a RUNNING run may be ended or done again by this process.

    Parameters
    ----------
    forced
        The user says that runs of other hosts are dead whose lease has expired, or which have
        none.
    """
    if forced and PROCESS in tags and alive(tags) is None and silence(tags) is None:
        return True
    return is_lost(tags, EXPIRED_S if forced else PATIENCE_S)


def claim(client: MlflowClient, run_id: str) -> None:
    """Let a run be RUNNING and belong to this process, whoever ended it."""
    tags = client.get_run(run_id).data.tags
    client.update_run(run_id, status=RUNNING)
    # One without a lease has waited for its process, and may have been told to stop meanwhile.
    for past in ("error", *OF_BURIALS, *([STOP] if LEASE in tags else [])):
        if past in tags:
            client.delete_tag(run_id, past)
    renew(client, run_id)


def renew(client: MlflowClient, run_id: str, leads: bool = False) -> None:
    """Let a run say that this process is at work on it now.

    Of several processes that work on one sweep any may; with `leads` it also says so of this one.
    """
    from mlflow.entities import RunTag

    now = {**own_tags(), **lease_tag()}
    if leads:
        now[leading(now)] = now[LEASE]
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in now.items()])
