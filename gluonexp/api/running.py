"""Runs and sweeps begun from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gluonexp.api.recorded import Run
from gluonexp.api.sweeps import Sweep


def single(overrides: Sequence[str], config_dir: str | Path | None) -> Run:
    """To come."""
    raise NotImplementedError


def several(overrides: Sequence[str], config_dir: str | Path | None) -> Sweep:
    """To come."""
    raise NotImplementedError
