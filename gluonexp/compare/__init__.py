"""Runs listed, and compared: what differs first, then the results, then the curves."""

from gluonexp.compare.comparison import Comparison, Row, chosen, compare

__all__ = ["Comparison", "Row", "chosen", "compare"]
