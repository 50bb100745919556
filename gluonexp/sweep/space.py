"""What a search looks through, in the words of Hydra's overrides.

``optim.lr=interval(1e-4,1e-1)`` means what it means to Hydra's Optuna plugin, with one addition: a
scale. What spans two orders of magnitude is searched on a log scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from gluonexp.base.errors import GluonexpError
from gluonexp.sweep.study.dimensions import Choice, Dimension, Number

# An interval above 0 that spans this factor is searched on a log scale.
LOG_FACTOR = 100

FORMS = (
    "a,b,c or choice(a,b,c); range(1,10) or range(0,1,0.1), without their ends; "
    "interval(0.1,0.9); int(interval(1,10)); tag(log, interval(1,50)) and "
    "tag(linear, interval(1e-4,1)) set the scale"
)


def parse(overrides: Sequence[Override]) -> tuple[dict[str, Dimension], list[str]]:
    """Return what is searched, by key, and the overrides that all its jobs share.

    Of several overrides of one key the last counts.

    Raises
    ------
    GluonexpError
        A value is in none of the forms, or there is nothing to search.
    """
    space: dict[str, Dimension] = {}
    shared: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None)
        shared.pop(key, None)
        if override.is_sweep_override():
            space[key] = dimension(override)
        else:
            shared[key] = str(override.input_line)
    if not space:
        raise GluonexpError(
            "there is nothing to search: give a key several values, as in "
            f"optim.lr=interval(1e-4,1e-1). The forms are {FORMS}"
        )
    return space, list(shared.values())


def dimension(override: Override) -> Dimension:
    """Return what the values of one override are.

    Raises
    ------
    GluonexpError
        They are in none of the forms.
    """
    text = override.get_value_string().strip()
    value = override.value()
    if re.match(r"(shuffle|sort)\(", text):
        raise _refused(override, "a search has no order to shuffle or sort")
    tags = sorted(getattr(value, "tags", ()))
    if isinstance(value, IntervalSweep):
        return _interval(override, value, tags)
    if tags:
        raise _refused(override, f"tag({', '.join(tags)}, ...) is for an interval")
    options = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not options:
        raise _refused(override, "it has no values")
    if not isinstance(value, RangeSweep):
        return Choice(options)
    steps = value.range()
    if isinstance(steps, range):
        return Number(min(steps), max(steps), step=abs(steps.step))
    # Hydra's own values, not low + k * step, which may differ in the last digit.
    return Choice(options, ordered=True)


def _interval(override: Override, value: IntervalSweep, tags: Sequence[str]) -> Number:
    if len(tags) > 1 or not {"log", "linear"}.issuperset(tags):
        raise _refused(override, f"tag({', '.join(tags)}, ...) is none: choose log or linear")
    low, high = value.start, value.end
    assert low is not None and high is not None
    if math.isinf(low) or math.isinf(high):
        raise _refused(override, "an interval has two ends")
    if not low <= high:
        raise _refused(override, "the first number of an interval is its lower end")
    if "log" in tags and low <= 0:
        raise _refused(override, "a log scale begins above 0")
    wide = low > 0 and high >= LOG_FACTOR * low
    return Number(low, high, log="log" in tags or (wide and "linear" not in tags))


def _refused(override: Override, why: str) -> GluonexpError:
    return GluonexpError(f"{override.input_line}: {why}. The forms are {FORMS}")
