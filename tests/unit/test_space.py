"""What a search looks through: Hydra's own parser reads it, and reads what was chosen again."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.sweep import space
from gluonexp.sweep.study.dimensions import Choice, Number

PARSER = OverridesParser.create()


def parsed(*overrides):
    return space.parse(PARSER.parse_overrides(list(overrides)))


def dimension(text):
    return space.dimension(PARSER.parse_override(f"key={text}"))


def read(text):
    """Return what Hydra makes of one value."""
    return PARSER.parse_override(f"key={text}").value()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b,c", Choice(("a", "b", "c"))),
        ("choice(a,b)", Choice(("a", "b"))),
        ("choice(only)", Choice(("only",))),
        ("1,2,1", Choice(("1", "2"))),
        ("null,[1,2],{a: 1},'x,y'", Choice(("null", "[1,2]", "{a:1}", "'x,y'"))),
        ("True,False", Choice(("True", "False"))),
        ("range(1,4)", Number(1, 3)),
        ("range(3)", Number(0, 2)),
        ("range(0,10,4)", Number(0, 8, step=4)),
        ("range(10,0,-5)", Number(5, 10, step=5)),
        ("range(0,1,0.25)", Choice(("0.0", "0.25", "0.5", "0.75"), ordered=True)),
        ("range(0,0.4,0.1)", Choice(("0.0", "0.1", "0.2", "0.3", "0.4"), ordered=True)),  # sic
        ("range(1,0,-0.5)", Choice(("1.0", "0.5"), ordered=True)),
        ("interval(0,1)", Number(0.0, 1.0)),
        ("interval(0.1,0.9)", Number(0.1, 0.9)),
        ("interval(-1,1)", Number(-1.0, 1.0)),
        ("interval(1,99)", Number(1.0, 99.0)),
        ("interval(1,100)", Number(1.0, 100.0, log=True)),
        ("interval(1e-4,1e-1)", Number(1e-4, 1e-1, log=True)),
        ("tag(linear, interval(1e-4,1e-1))", Number(1e-4, 1e-1)),
        ("tag(log, interval(1,50))", Number(1.0, 50.0, log=True)),
        ("int(interval(1,10))", Number(1, 10)),
        ("int(interval(8,1024))", Number(8, 1024, log=True)),
        ("tag(log, int(interval(1,10)))", Number(1, 10, log=True)),
        ("int(tag(log, interval(1,10)))", Number(1, 10, log=True)),
        ("interval(2,2)", Number(2.0, 2.0)),
    ],
)
def test_each_form_is_understood(text, expected):
    found = dimension(text)
    assert found == expected
    if isinstance(expected, Number):  # 1 == 1.0
        assert found.whole == expected.whole


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("shuffle(a,b)", "a search has no order to shuffle or sort"),
        ("shuffle(range(1,4))", "a search has no order to shuffle or sort"),
        ("sort(3,1,2)", "a search has no order to shuffle or sort"),
        ("tag(foo, interval(0,1))", r"tag\(foo, ...\) is none: choose log or linear"),
        ("tag(log, linear, interval(1,2))", r"tag\(linear, log, ...\) is none"),
        ("tag(log, choice(1,2))", r"tag\(log, ...\) is for an interval"),
        ("tag(log, range(1,4))", r"tag\(log, ...\) is for an interval"),
        ("tag(log, interval(0,1))", "a log scale begins above 0"),
        ("interval(2,1)", "the first number of an interval is its lower end"),
        ("interval(nan,1)", "the first number of an interval is its lower end"),
        ("interval(0,inf)", "an interval has two ends"),
        ("range(5,1)", "it has no values"),
        ("range(1.5,1)", "it has no values"),
    ],
)
def test_what_is_no_form_is_refused_by_name(text, why):
    with pytest.raises(GluonexpError, match=rf"^key={'.*'}: {why}.*The forms are a,b,c or"):
        dimension(text)


def test_each_key_is_searched_or_shared_and_the_last_word_counts():
    searched, shared = parsed(
        "optim.lr=0.1,0.2", "seed=1", "model=cnn,mlp", "seed=2", "optim.lr=interval(0,1)", "~loss"
    )
    assert searched == {"model": Choice(("cnn", "mlp")), "optim.lr": Number(0.0, 1.0)}
    assert shared == ["seed=2", "~loss"]
    searched, shared = parsed("a=1,2", "+b@c=1,2", "a=3")
    assert searched == {"+b@c": Choice(("1", "2"))}
    assert shared == ["a=3"]


def test_without_anything_to_search_the_forms_are_told():
    with pytest.raises(GluonexpError, match=r"nothing to search.*optim.lr=interval\(1e-4,1e-1\)"):
        parsed("seed=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,'b c'", "one of a, 'b c'"),
        ("range(0,1,0.1)", "0.0 to 0.9 (10 values)"),
        ("range(0.5,1,0.5)", "0.5 to 0.5 (1 values)"),
        ("range(0,9,2)", "a whole number from 0 to 8 in steps of 2"),
        ("interval(1e-4,1e-1)", "0.0001 to 0.1 on a log scale"),
        ("tag(linear, interval(1e-4,1e-1))", "0.0001 to 0.1"),
        ("int(interval(1,10))", "a whole number from 1 to 10"),
    ],
)
def test_it_is_described(text, words):
    assert dimension(text).describe() == words


texts = st.text(st.characters(min_codepoint=32, exclude_categories=("C", "Z")) | st.just(" "))
plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False)
values = st.recursive(
    plain | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex("[a-z][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=5,
)


def written(value):
    """Return `value` as a user would write it."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {written(item)}' for key, item in value.items())}}}"
    return str(value)


@settings(max_examples=40)
@given(st.lists(values, min_size=2, max_size=3))
def test_what_was_chosen_reads_as_what_was_offered(offered):
    text = ",".join(map(written, offered))
    assert [repr(read(written(value))) for value in offered] == list(map(repr, offered))
    options = dimension(text).options
    assert {repr(read(option)) for option in options} == set(map(repr, offered))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_a_number_reads_as_exactly_the_same_number(number):
    kind = Number(number, number)
    again = read(kind.text(number))
    assert repr(again) == repr(number)


@given(st.integers(-20, 20), st.integers(-20, 20), st.sampled_from([-3, -1, 1, 2, 7]))
def test_a_range_is_what_hydra_enumerates(start, stop, step):
    override = PARSER.parse_override(f"key=range({start},{stop},{step})")
    expected = sorted(map(int, override.sweep_string_iterator()))
    if not expected:
        with pytest.raises(GluonexpError, match="it has no values"):
            space.dimension(override)
        return
    found = space.dimension(override)
    assert list(range(found.low, found.high + 1, found.step)) == expected


def test_a_glob_is_a_choice_of_what_a_group_has(tmp_path):
    for name in ("cnn", "mlp", "zoo"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / f"{name}.yaml").write_text("a: 1\n")
    with initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        [override] = parser.parse_overrides(["model=glob([c*,m*])"])
        found = space.dimension(override)
    assert found == Choice(("cnn", "mlp"))
