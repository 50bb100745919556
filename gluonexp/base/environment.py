"""Variables of the environment that hold for a block; blocks need not end in their order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_blocks: list[dict[str, str]] = []
_outside: dict[str, str | None] = {}  # what stood there before the first of the blocks


@contextmanager
def environment(**wanted: str) -> Iterator[None]:
    """Let variables of the environment have these values within the block.

    Of blocks that overlap the last that began counts; after all of them the variables are as they
    were before.
    """
    for name in wanted:
        if not any(name in block for block in _blocks):
            _outside[name] = os.environ.get(name)
    _blocks.append(wanted)
    os.environ.update(wanted)
    try:
        yield
    finally:
        _blocks[:] = [block for block in _blocks if block is not wanted]
        for name in wanted:
            values = [block[name] for block in _blocks if name in block]
            value = values[-1] if values else _outside.pop(name)
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
