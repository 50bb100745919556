"""To come."""


class Sweep:
    """To come."""
