"""Freezing: which parameters train, how fast and from which epoch on; and the proof that it held.

`plan` says it for every parameter before anything is trained, `apply` makes it so.
"""

from gluonexp.freeze.planning import Plan, PlanRow, plan

__all__ = ["Plan", "PlanRow", "plan"]
