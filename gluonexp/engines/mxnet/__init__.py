"""The MXNet engine: steps, evaluation, optimizers, freezing and random numbers by MXNet."""
