"""Runs that are killed at any step of what they write lose nothing. All steps: `make crash`."""

import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.crash.story import Death, Story

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and who adopts orphans")

STEPS = 25  # at which runs are killed here


@pytest.fixture(scope="module")
def story():
    """What kills runs and goes on with them, in folders of its own; in memory where there is."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="crash-", dir=memory if memory.is_dir() else None))
    told = Story(folder)
    yield told
    told.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("part", range(STEPS))
def test_a_run_killed_at_a_step_goes_on_as_if_it_had_not_been(story, part):
    # Without an export a run takes half the time.
    variant, torn = ("steps", "steps", "epochs")[part % 3], part % 4 == 3
    whole = story.whole(variant)
    count = whole.tears if torn else whole.steps
    again = whole.steps // 2 if part == 8 else 0
    death = Death(variant, 1 + (2 * part + 1) * count // (2 * STEPS), torn, again)
    assert story.tell(death)[1] == []


@pytest.mark.parametrize("part", range(2))
def test_a_run_killed_from_outside_goes_on_as_if_it_had_not_been(story, part):
    moment = random.Random(part).uniform(0.05, 1)
    assert story.tell(Death("epochs", seconds=moment))[1] == []
