"""What a sweep asks its store, which may be away for a while: it is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import duration, say
from gluonexp.tracking import internals
from gluonexp.tracking.store import Unreachable

Answer = TypeVar("Answer")

LIMIT_S: Final = 600.0
_WAITS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # between two requests


class Patience:
    """Repeats requests that a store does not answer, until it does or the time is over.

    Not for several threads.

    Parameters
    ----------
    say
        Takes a line when a wait begins, and one when it has been worth it.
    limit_s
        How long one request is repeated, seconds.
    """

    def __init__(self, say: Callable[[str], None] = say, limit_s: float | None = None) -> None:
        self._say = say
        self._limit_s = LIMIT_S if limit_s is None else limit_s
        self._asking = False

    def end(self) -> None:
        """Repeat nothing from now on."""
        self._limit_s = 0.0

    def ask(self, request: Callable[[], Answer]) -> Answer:
        """Return the answer to `request`, which may be repeated, and may use `ask` itself.

        Raises
        ------
        GluonexpError
            What `request` raises where the store answers; or it has not answered in time, after
            which it is not waited for any more.
        """
        if self._asking:  # a part of what is repeated as a whole
            return request()
        self._asking = True
        try:
            return self._repeated(request)
        finally:
            self._asking = False

    def _repeated(self, request: Callable[[], Answer]) -> Answer:
        since, tries = time.monotonic(), 0
        while True:
            try:
                answer = request()
            except GluonexpError as error:
                left = since + self._limit_s - time.monotonic()
                if not _is_away(error) or (left <= 0 and not tries):
                    raise
                limit = duration(self._limit_s)
                if left <= 0:
                    self.end()
                    raise Unreachable(
                        f"the store has not answered for {limit}: {error}"
                    ) from error
                if not tries:
                    self._say(
                        f"the store does not answer; the sweep waits up to {limit}, or until "
                        f"Ctrl-C: {error}"
                    )
                time.sleep(min(left, _WAITS_S[min(tries, len(_WAITS_S) - 1)]))
                tries += 1
            else:
                if tries:
                    self._say("the store answers again; the sweep goes on")
                return answer


def _is_away(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, Unreachable | ConnectionError) or internals.is_away(error):
            return True
        error = error.__cause__
    return False
