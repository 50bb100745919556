"""Standard streams that are closed, or that nobody reads any more: no reason to lose a run."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_STREAMS: Final = ("stdin", "stdout", "stderr")
_OURS: Final = (io.BufferedWriter, io.FileIO)  # the latter where nothing is buffered


def open_all() -> None:
    """Let no standard stream be closed, as ``>&-`` or a daemon leaves it.

    The next file or socket that is opened would get its number, and be taken for it by the
    processes that are started from here.
    """
    for descriptor, name in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nothing, "w" if descriptor else "r", encoding="utf-8"))


def show_all() -> None:
    """Print escaped what an output stream has no characters for, and names that are no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unread() -> bool:
    """Tell whether a reader of standard output or error has gone (``| head``)."""
    looked = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a notebook's, or closed
            looked.register(stream.fileno(), select.POLLOUT)
    gone = select.POLLERR | select.POLLHUP
    return any(event & gone for _, event in looked.poll(0))


@contextmanager
def lasting() -> Iterator[None]:
    """Go on inside where standard output or error takes no more: drop what is printed.

    What they have no characters for is escaped.

    The reader has gone (``| head``), the terminal has, or the disk that it is written to is full.
    Streams that are not the process's own, as in a notebook, stay as they are.
    """
    before = {name: getattr(sys, name) for name in _STREAMS[1:]}
    for name, stream in before.items():
        if type(stream) is io.TextIOWrapper and isinstance(stream.buffer, _OURS):
            setattr(sys, name, _lasting(stream))
    within = {name: getattr(sys, name) for name in before}
    try:
        yield
    finally:
        for name, stream in within.items():
            if stream is not before[name]:
                with suppress(OSError, ValueError):
                    stream.flush()
                if getattr(sys, name) is stream:
                    setattr(sys, name, before[name])


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same place that takes what cannot be written, too."""
    with suppress(OSError, ValueError):
        stream.flush()
    raw = _Lasting(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw) if isinstance(stream.buffer, io.BufferedWriter) else raw,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.FileIO):
    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        with suppress(OSError):
            while rest:
                if (written := super().write(rest)) is None:  # it is full, and does not block
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        return memoryview(data).nbytes
