"""``make crash``: kills a small run at each of its steps; says what was lost."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.crash.story import VARIANTS, Death, Story

_FROM_OUTSIDE = 10


def main() -> None:
    """Tell all stories, or each n-th, in some processes; exit with 1 if one ends badly."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="only each so many-th step")
    parser.add_argument("--first", type=int, default=1, help="the first step")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time")
    given = parser.parse_args()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=memory if memory.is_dir() else None))
    stories = [Story(folder / str(job)) for job in range(given.jobs)]
    deaths = collections.deque(_deaths(stories[0], given.first, given.stride))
    total, wrong, started, turn = len(deaths), list[str](), time.monotonic(), threading.Lock()

    def work(story: Story) -> None:
        while True:
            try:
                death = deaths.popleft()
            except IndexError:
                return
            where, problems = story.tell(death)
            with turn:
                print(f"{total - len(deaths)}/{total} {death}: {where}", flush=True)
                for problem in problems:
                    print(f"    {problem}", flush=True)
                wrong.extend(problems[:1])

    threads = [threading.Thread(target=work, args=[story]) for story in stories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for story in stories:
        story.close()
    minutes = (time.monotonic() - started) / 60
    print(f"{total} deaths in {minutes:.0f} minutes, {len(wrong)} of which lost something")
    sys.exit(bool(wrong))


def _deaths(story: Story, first: int, stride: int) -> Iterator[Death]:
    chance = random.Random(0)
    for _ in range(_FROM_OUTSIDE):
        yield Death("epochs", seconds=chance.uniform(0.05, 1))
    for variant in VARIANTS:
        whole = story.whole(variant)
        for at in range(first, whole.steps + 1, stride):
            yield Death(variant, at, again=chance.randint(1, whole.steps) if at % 5 == 0 else 0)
        for at in range(first, whole.tears + 1, stride):
            yield Death(variant, at, torn=True)


if __name__ == "__main__":
    main()
