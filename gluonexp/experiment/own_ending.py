"""How the block of a loop of one's own is left: by ``sys.exit``, or with a generator around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from gluonexp.base.errors import GluonexpError
from gluonexp.tracking import Tracker
from gluonexp.tracking.lifecycle import Interrupted


class Left(GluonexpError):
    """The block was left by ``sys.exit`` with a message, or with a number that is not 0."""


@contextmanager
def seen(tracker: Tracker, exits: list[SystemExit]) -> Iterator[None]:
    """Note in `exits` how the block calls ``sys.exit``, so that the run ends accordingly.

    ``sys.exit()`` and ``sys.exit(0)`` are a regular end; another one is an error, `Left`. A
    generator that is closed while it is within the block interrupts the run.
    """
    process = os.getpid()
    try:
        yield
    except GeneratorExit:
        if os.getpid() == process:
            reason = "the generator around the block was closed before its end, as `break` does"
            tracker.log_tags({"error": reason})
        raise
    except SystemExit as error:
        if isinstance(error, Interrupted):
            raise
        exits.append(error)
        if error.code not in (None, 0):
            told = isinstance(error.code, str) and error.code.strip()
            raise Left(told or f"sys.exit({error.code!r})") from error


@contextmanager
def leaving(run: AbstractContextManager[None], exits: list[SystemExit]) -> Iterator[None]:
    """Leave, once the run has ended, by the ``sys.exit`` that was noted within."""
    try:
        with run:
            yield
    except Left:
        pass
    if exits:
        raise exits[-1]
