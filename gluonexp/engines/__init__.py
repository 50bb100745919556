"""Training engines: what carries out a training step, each behind `gluonexp.training.engine`."""
