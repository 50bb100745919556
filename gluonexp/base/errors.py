"""The one exception class whose message is meant for users; what other libraries' ones say."""


class GluonexpError(Exception):
    """Something the user can mend; the message names key or file and the remedy."""


def reason(error: Exception) -> str:
    """Return the line of a library's exception that says what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1].rpartition("Check failed: ")[2]
    return said.rpartition(" : ")[2].strip() or said.strip()
