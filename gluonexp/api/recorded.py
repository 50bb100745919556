"""To come."""


class Run:
    """To come."""
