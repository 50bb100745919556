"""One run: opened, trained, recorded, resumed, shown."""

from gluonexp.experiment.execute import Result, run

__all__ = ["Result", "run"]
