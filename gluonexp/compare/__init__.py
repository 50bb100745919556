"""Runs listed, and compared: what differs first, then what came of it, then how it went."""

from gluonexp.compare.comparison import Comparison, Row, chosen, compare

__all__ = ["Comparison", "Row", "chosen", "compare"]
