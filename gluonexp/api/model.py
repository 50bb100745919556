"""What a run exported, loaded to be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Model:
    """To come."""

    def __init__(self, model: str | Path | Any, runtime: str | None = None) -> None:
        raise NotImplementedError
