"""Freezing: which parameters train, how fast and from which epoch on.

`plan` says it for every parameter before anything is trained; an engine carries it out.
"""

from gluonexp.freeze.planning import FreezePlan, FreezeRow, Release, plan

__all__ = ["FreezePlan", "FreezeRow", "Release", "plan"]
