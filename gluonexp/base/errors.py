"""The one exception class whose message is meant for users: they see it, not a traceback."""


class GluonexpError(Exception):
    """Something the user can mend; the message names key or file and the remedy."""
