"""The table of runs."""

from __future__ import annotations

import pandas as pd


def runs(
    experiment: str | None, where: str | None, uri: str | None, limit: int | None
) -> pd.DataFrame:
    """To come."""
    raise NotImplementedError
