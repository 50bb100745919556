"""How a run stands, and how a job ended."""

from __future__ import annotations

from dataclasses import dataclass

FINISHED, PRUNED, FAILED, KILLED, RUNNING = "FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING"
UNFINISHED = (RUNNING, "SCHEDULED")
# What people are shown of a run that is RUNNING in the store, and whose process is gone.
LOST = "lost"


@dataclass(frozen=True)
class Ending:
    """How one job ended.

    Attributes
    ----------
    status
        FINISHED, PRUNED (stopped early because better is known elsewhere), FAILED or KILLED.
    objective
        The best value of ``objective.metric``; None where it was not measured.
    reason
        Why it has no result, in one line; or why training stopped early.
    trace
        The traceback of a failure.
    lost
        Whether its process or its machine was lost: it did not fail by itself.
    """

    status: str
    objective: float | None = None
    reason: str = ""
    trace: str | None = None
    lost: bool = False
