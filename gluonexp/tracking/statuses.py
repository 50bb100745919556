"""How a recorded run stands."""

from __future__ import annotations

FINISHED, PRUNED, FAILED, KILLED, RUNNING = "FINISHED", "PRUNED", "FAILED", "KILLED", "RUNNING"
