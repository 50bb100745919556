"""Freeze rules and plans, before anything is trained."""

import subprocess
import sys
from fnmatch import fnmatchcase

import pytest
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st

from gluonexp import freeze
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nn
from gluonexp.base.text import listed
from gluonexp.config.schema import FreezeConfig, FreezeRule, Unfreeze
from gluonexp.freeze import rules
from gluonexp.models.layers import outline
from gluonexp.models.work import Work

IMAGE = (3, 8, 8)  # C, H, W


class Topped(nn.HybridBlock):
    """A backbone and a head, as the fine-tuning models have."""

    def __init__(self, backbone, head):
        super().__init__(prefix="")
        self.backbone = nn.HybridSequential(prefix="")
        self.backbone.add(*backbone)
        self.head = nn.HybridSequential(prefix="head_")
        self.head.add(*head)

    def hybrid_forward(self, F, x):
        return self.head(self.backbone(x))


def with_shapes(net, image=IMAGE):
    output = net(mx.sym.var("data"))
    arguments, _, statistics = output.infer_shape(data=(1, *image))
    parameters = net.collect_params()
    names = [*output.list_arguments(), *output.list_auxiliary_states()]
    for name, shape in zip(names, [*arguments, *statistics], strict=True):
        if name in parameters:
            parameters[name].shape = shape
    return net


def small():
    """Return three blocks, the first two with BatchNorm, under a head of two Dense layers."""
    backbone = [
        nn.Conv2D(4, 3, use_bias=False),
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.HybridSequential(),
        nn.Conv2D(4, 3),
        nn.Dropout(0.5),
    ]
    backbone[3].add(nn.Conv2D(4, 3, use_bias=False), nn.BatchNorm())
    return with_shapes(Topped(backbone, [nn.Dense(5), nn.Dropout(0.5), nn.Dense(3)]))


def flat():
    """Return a network without a backbone."""
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(4), nn.Dense(3))
    return with_shapes(net)


NORM = ["gamma", "beta", "running_mean", "running_var"]
BOTTOM = ["backbone.0.weight", *(f"backbone.1.{leaf}" for leaf in NORM)]
MIDDLE = ["backbone.3.0.weight", *(f"backbone.3.1.{leaf}" for leaf in NORM)]
TOP = ["backbone.4.weight", "backbone.4.bias"]
HIDDEN = ["head.0.weight", "head.0.bias"]
LAST = ["head.2.weight", "head.2.bias"]
NAMES = [*BOTTOM, *MIDDLE, *TOP, *HIDDEN, *LAST]


def planned(net, match_and_state, image=IMAGE, **config):
    made = [FreezeRule(*rule) if isinstance(rule, tuple) else rule for rule in match_and_state]
    return freeze.plan(outline(net, image), FreezeConfig("test", made, **config))


def names(plan, state):
    return [row.parameter for row in plan.rows if row.state == state]


@st.composite
def patterns(draw):
    """A parameter's name of which some parts are ``*``; and the ``*`` that ends most lists."""
    made = []
    for _ in range(draw(st.integers(0, 4))):
        pattern = draw(st.sampled_from(NAMES))
        for _ in range(draw(st.integers(0, 2))):
            start = draw(st.integers(0, len(pattern)))
            end = draw(st.integers(start, len(pattern)))
            pattern = f"{pattern[:start]}*{pattern[end:]}"
        made.append(pattern)
    return [*made, *draw(st.sampled_from([["*"], []]))]


NET = small()
OUTLINE = outline(NET, IMAGE)


@given(patterns())
def test_the_first_match_decides_and_every_rule_says_something(matches):
    first = {
        name: next((i for i, match in enumerate(matches) if fnmatchcase(name, match)), None)
        for name in NAMES
    }
    if None in first.values() or set(first.values()) != set(range(len(matches))):
        with pytest.raises(GluonexpError, match=r"^freeze\.rules"):
            rules.assign(OUTLINE, matches, "freeze.rules")
    else:
        assigned = rules.assign(OUTLINE, matches, "freeze.rules")
        assert list(assigned.items()) == list(first.items())  # in structural order


def test_all_but_the_star_is_literal():
    pattern = rules.compiled(OUTLINE, "head.*.w+ight", "key")
    assert pattern.fullmatch("head.0.w+ight")
    assert not pattern.fullmatch("head.0.weight")
    assert not pattern.fullmatch("headx0.w+ight")
    assert not pattern.fullmatch("a.head.0.w+ight")


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("backbone[0].*", BOTTOM),
        ("backbone[1].*", MIDDLE),
        ("backbone[-1].*", TOP),
        ("backbone[-3].*", BOTTOM),
        ("backbone[1].*.gamma", ["backbone.3.1.gamma"]),
        ("head[-1].*", LAST),
        ("backbone.3[0].*", MIDDLE),
    ],
)
def test_a_bracket_counts_blocks(match, expected):
    assert rules.matching(OUTLINE, match, "key") == expected


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("alexnet", 7, ["0"], ["11"]),
        ("resnet18_v1", 5, ["0", "1"], ["7"]),
        ("resnet18_v2", 5, ["0", "1", "2"], ["8", "9"]),
        ("vgg11_bn", 10, ["0", "1"], ["31"]),
        ("densenet121", 8, ["0", "1"], ["10", "11"]),
        ("mobilenet0.25", 27, ["0", "1"], ["78", "79"]),
        ("mobilenetv2_0.25", 19, ["0", "1"], ["20", "21"]),
        ("squeezenet1.1", 9, ["0"], ["12"]),
        ("inceptionv3", 16, ["0"], ["17"]),
    ],
)
def test_blocks_of_the_model_zoo(name, count, first, last):
    net = gluon.model_zoo.vision.get_model(name).features
    counted = outline(net, (3, 299, 299)).blocks("")
    assert (len(counted), counted[0], counted[-1]) == (count, first, last)


@pytest.mark.parametrize(
    ("policy", "frozen"),
    [
        ("none", []),
        ("features", [*BOTTOM, *MIDDLE, *TOP]),
        ("head_only", [*BOTTOM, *MIDDLE, *TOP, *HIDDEN]),
        ("last_block", [*BOTTOM, *MIDDLE]),
        ("discriminative", []),
        ("gradual", [*BOTTOM, *MIDDLE, *TOP]),
    ],
)
def test_what_each_policy_freezes(compose, policy, frozen):
    config = compose(f"freeze={policy}").freeze
    assert config.name == policy
    plan = freeze.plan(outline(small(), IMAGE), config)
    assert [row.parameter for row in plan.rows] == NAMES
    assert names(plan, "frozen") == frozen
    statistics = [name for name in NAMES if "running" in name and name not in frozen]
    assert names(plan, "statistic") == statistics


def test_a_plan_says_all_of_each_parameter():
    plan = planned(
        small(),
        [("backbone[-1].*",), ("backbone.*", "frozen"), ("head.0.*", "trainable", 4.0), ("*",)],
        decay=0.5,
        unfreeze=[Unfreeze(5, "backbone.*", 2.0), Unfreeze(2, "backbone[1].*")],
    )
    seen = {
        row.parameter: (row.state, row.lr_mult, row.unfreeze_epoch, row.batchnorm)
        for row in plan.rows
    }
    assert seen == {
        "backbone.0.weight": ("frozen", 2 * 0.5**3, 5, ""),
        "backbone.1.gamma": ("frozen", 2 * 0.5**3, 5, "frozen"),
        "backbone.1.beta": ("frozen", 2 * 0.5**3, 5, "frozen"),
        "backbone.1.running_mean": ("frozen", 0, 5, "frozen"),
        "backbone.1.running_var": ("frozen", 0, 5, "frozen"),
        "backbone.3.0.weight": ("frozen", 0.5**2, 2, ""),
        "backbone.3.1.gamma": ("frozen", 0.5**2, 2, "frozen"),
        "backbone.3.1.beta": ("frozen", 0.5**2, 2, "frozen"),
        "backbone.3.1.running_mean": ("frozen", 0, 2, "frozen"),
        "backbone.3.1.running_var": ("frozen", 0, 2, "frozen"),
        "backbone.4.weight": ("trained", 0.5, None, ""),
        "backbone.4.bias": ("trained", 0.5, None, ""),
        "head.0.weight": ("trained", 4, None, ""),
        "head.0.bias": ("trained", 4, None, ""),
        "head.2.weight": ("trained", 1, None, ""),
        "head.2.bias": ("trained", 1, None, ""),
    }
    first = plan.rows[0]
    assert (first.layer, first.shape, first.size) == ("Conv2D", (4, 3, 3, 3), 108)
    assert names(plan, "frozen") == [*BOTTOM, *MIDDLE]


def test_policies_combine_with_other_keys(compose):
    config = compose("freeze=gradual", "freeze.decay=0.5", "freeze.batchnorm=moving").freeze
    assert (config.name, config.decay, config.batchnorm) == ("gradual", 0.5, "moving")
    assert config.rules[0] == FreezeRule("backbone.*", "frozen")
    assert [entry.epoch for entry in config.unfreeze] == [1, 2, 3, 4]


def test_batchnorm_that_moves_is_no_frozen_statistic():
    plan = planned(small(), [("backbone.*", "frozen"), ("*",)], batchnorm="moving")
    assert names(plan, "statistic") == [name for name in NAMES if "running" in name]
    assert {row.batchnorm for row in plan.rows} == {"", "batch"}


def test_what_the_network_itself_froze_stays_frozen_until_it_is_unfrozen():
    net = small()
    net.backbone[0].weight.grad_req = "null"
    net.backbone[1]._kwargs["use_global_stats"] = True
    net.head[0].weight.lr_mult = 3.0
    kept = ["backbone.0.weight", "backbone.1.running_mean", "backbone.1.running_var"]
    assert names(planned(net, [("*",)]), "frozen") == kept
    plan = planned(net, [("*", "trainable", 2.0)], unfreeze=[Unfreeze(1, "backbone[0].*")])
    rows = {row.parameter: row for row in plan.rows}
    assert [name for name, row in rows.items() if row.unfreeze_epoch == 1] == kept
    assert (rows["backbone.0.weight"].lr_mult, rows["head.0.weight"].lr_mult) == (1.0, 6.0)


def recurrent(layer):
    net = nn.HybridSequential()
    net.add(layer(4, num_layers=2, layout="NTC"), nn.Dropout(0.5), nn.Dense(3))
    return with_shapes(net, (5, 6))


@pytest.mark.parametrize("layer", [gluon.rnn.LSTM, gluon.rnn.GRU, gluon.rnn.RNN])
def test_a_parameter_that_its_layer_renames_is_planned(layer):
    # A recurrent layer calls its `l0_i2h_weight` `_unfused.0.i2h_weight`: no path of layers.
    net = recurrent(layer)
    held = [f"{g}_{t}" for t in ("weight", "bias") for g in ("i2h", "h2h")]
    first, second = ([f"0._unfused.{i}.{leaf}" for leaf in sorted(held)] for i in range(2))
    plan = planned(net, [("0._unfused.0.*", "frozen"), ("*",)], image=(5, 6))
    assert sorted(names(plan, "frozen")) == first
    assert sorted(names(plan, "trained")) == [*second, "2.bias", "2.weight"]
    assert [row.layer for row in plan.rows] == [*[layer.__name__] * 8, "Dense", "Dense"]
    # Dropout looks at the layers beside it and at the next one that holds parameters.
    assert plan.notes == ()
    plan = planned(net, [("0.*",), ("*", "frozen")], image=(5, 6))
    assert plan.notes == ("Dropout stays active among frozen layers: 1",)


def test_parts_are_as_few_as_hold_these_parameters_only():
    assert OUTLINE.parts([*BOTTOM, *MIDDLE, *TOP]) == ["backbone"]
    assert OUTLINE.parts([*MIDDLE, *HIDDEN]) == ["backbone.3", "head.0"]
    assert OUTLINE.parts(BOTTOM) == ["backbone.0", "backbone.1"]
    # Statistics that move by themselves do not count, what learns does.
    assert OUTLINE.parts(MIDDLE[:3]) == ["backbone.3"]
    assert OUTLINE.parts([*TOP[:1], *HIDDEN]) == ["backbone.4.weight", "head.0"]
    renamed = outline(recurrent(gluon.rnn.LSTM), (5, 6))
    names = ["0._unfused.1.i2h_bias", "2.weight", "2.bias"]
    assert renamed.parts(names) == ["0._unfused.1.i2h_bias", "2"]


def test_of_many_names_the_first_are_listed():
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_a_constant_is_frozen_and_cannot_be_unfrozen():
    backbone = [nn.Conv2D(4, 3, use_bias=False), nn.BatchNorm(scale=False)]
    net = with_shapes(Topped(backbone, [nn.Dense(3)]))
    plan = planned(net, [("*",)])
    assert names(plan, "frozen") == ["backbone.1.gamma"]
    assert plan.audited == ()  # MXNet takes it for 1, and may write that there
    plan = planned(net, [("backbone.*", "frozen"), ("*",)], unfreeze=[Unfreeze(1, "backbone.*")])
    assert [row.unfreeze_epoch for row in plan.rows[:3]] == [1, None, 1]


def test_what_gluon_calls_a_constant_is_never_released():
    class Shifted(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.shift = self.params.get_constant("shift", [[1.0, 2.0, 3.0, 4.0]])
            self.dense = nn.Dense(2, in_units=4)

        def hybrid_forward(self, F, x, shift):
            return self.dense(F.broadcast_add(x, shift))

    unfreeze = [Unfreeze(1, "*")]
    plan = planned(Shifted(), [("*.weight",), ("*", "frozen")], image=(4,), unfreeze=unfreeze)
    assert names(plan, "frozen") == ["shift", "dense.bias"]
    assert [release.parameters for release in plan.releases] == [("dense.bias",)]


@pytest.mark.parametrize(
    ("match_and_state", "unfreeze", "message"),
    [
        ([("bakbone.*", "frozen"), ("*",)], [], r"rules\[0\]\.match=bakbone\.\*: .*backbone\.\*,"),
        ([("*",), ("head.0.wight",)], [], r"rules\[1\]\.match=head\.0\.wight: .*head\.0\.weight"),
        ([("backbone[3].*",), ("*",)], [], r"rules\[0\].*backbone has 3 block\(s\)"),
        ([("backbone[-4].*",), ("*",)], [], r"rules\[0\].*backbone has 3 block\(s\)"),
        ([("backbon[0].*",), ("*",)], [], r"rules\[0\]\.match=backbon\[0\]\.\*: matches no"),
        ([("",), ("*",)], [], r"rules\[0\]\.match=: matches no"),
        ([("*",), ("backbone.*", "frozen")], [], r"rules\[1\]\.match=backbone\.\*: changes noth"),
        ([("backbone.*",)], [], r"rules: no rule matches head\.0\.weight \(one of 4 "),
        ([], [], r"rules: no rule matches backbone\.0\.weight"),
        ([("*", "frozen")], [], "=test: nothing is left to train in the first epoch"),
        ([("*", "frozen", 2.0)], [], r"rules\[0\]\.lr_mult=2: what is frozen"),
        ([("*",)], [(1, "head.*")], r"unfreeze\[0\]\.match=head\.\*: nothing of it is frozen"),
        ([("*",)], [(1, "haed.*")], r"unfreeze\[0\]\.match=haed\.\*: matches no"),
        (
            [("backbone.*", "frozen"), ("*",)],
            [(1, "backbone.*"), (2, "head.*")],
            r"unfreeze\[1\]\.match=head\.\*: nothing of it is frozen",
        ),
        ([("*running_mean", "frozen"), ("*",)], [], r"running_mean and .*running_var can only"),
        (
            [("backbone.*", "frozen"), ("*",)],
            [(2, "*running_var")],
            r"running_mean and .*running_var can only",
        ),
    ],
)
def test_what_says_nothing_of_the_network_is_refused(match_and_state, unfreeze, message):
    with pytest.raises(GluonexpError, match=f"^freeze.*{message}"):
        planned(NET, match_and_state, unfreeze=[Unfreeze(*entry) for entry in unfreeze])


@pytest.mark.parametrize("policy", ["features", "last_block", "gradual", "discriminative"])
def test_a_network_without_a_backbone_is_told_so(compose, policy):
    with pytest.raises(GluonexpError, match=r"backbone.*model=alexnet_ft"):
        freeze.plan(outline(flat(), IMAGE), compose(f"freeze={policy}").freeze)


def test_a_network_without_a_head_is_told_so(compose):
    message = r"no `head`, its parts are 1, 2; .*model=alexnet_ft"
    with pytest.raises(GluonexpError, match=message):
        freeze.plan(outline(flat(), IMAGE), compose("freeze=head_only").freeze)


@pytest.mark.parametrize(
    ("count", "releases", "noted"),
    [
        (1, [1], ["backbone[-2].*", "backbone[-3].*", "backbone.*"]),
        (2, [2, 1], ["backbone[-3].*", "backbone.*"]),
        (3, [3, 2, 1], ["backbone.*"]),
        (5, [4, 4, 3, 2, 1], []),
    ],
)
def test_gradual_suits_a_backbone_of_any_depth(compose, count, releases, noted):
    net = with_shapes(
        Topped([nn.Conv2D(2, 1, use_bias=False) for _ in range(count)], [nn.Dense(3)])
    )
    plan = freeze.plan(outline(net, IMAGE), compose("freeze=gradual").freeze)
    assert [row.unfreeze_epoch for row in plan.rows] == [*releases, None, None]
    assert [note.partition("match=")[2].partition(":")[0] for note in plan.notes] == noted


def test_an_unfreeze_that_changes_nothing_is_noted_and_says_why():
    plan = planned(
        NET,
        [("backbone.*", "frozen"), ("*",)],
        unfreeze=[
            Unfreeze(2, "backbone[0].*"),
            Unfreeze(1, "backbone.*"),
            Unfreeze(1, "backbone[3]*"),
        ],
    )
    assert plan.notes[:2] == (
        "freeze.unfreeze[2].match=backbone[3]*: backbone has 3 block(s), counted from 0, or from "
        "-1 back; left out",
        "freeze.unfreeze[0].match=backbone[0].*: changes nothing, all of it is released by then",
    )
    assert {row.unfreeze_epoch for row in plan.rows if row.state == "frozen"} == {1}


def test_one_parameter_under_two_names_has_one_state():
    class Shared(nn.HybridBlock):
        def __init__(self):
            super().__init__()
            self.one = nn.Dense(4, in_units=4)
            self.two = nn.Dense(4, in_units=4, params=self.one.params)

        def hybrid_forward(self, F, x):
            return self.two(self.one(x))

    with pytest.raises(GluonexpError, match=r"one\.weight and two\.weight can only"):
        planned(Shared(), [("one.*", "frozen"), ("*",)], image=(4,))
    plan = planned(Shared(), [("*",)], image=(4,))
    assert Work(Shared()).macs((4,)).popitem()[1] == 2 * 4 * 4
    assert [row.flops_share for row in plan.rows] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("freeze.rules=[{match: '*'},{match: a, state: frosen}]", r"freeze\.rules\[1\]\.state="),
        ("freeze.rules=[{match: '*', lr_mult: 0}]", r"freeze\.rules\[0\]\.lr_mult=0"),
        ("freeze.rules=[{state: frozen}]", r"freeze\.rules\[0\]\.match has no value"),
        ("freeze.unfreeze=[{epoch: 0, match: '*'}]", r"freeze\.unfreeze\[0\]\.epoch=0"),
        ("freeze.unfreeze=[{epoch: 1, match: a, lr_mult: -1}]", r"freeze\.unfreeze\[0\]\.lr_mult"),
        ("freeze.decay=0", r"freeze\.decay=0"),
        ("freeze.decay=1.5", r"freeze\.decay=1\.5: at most 1"),
        ("freeze.batchnorm=thawed", r"freeze\.batchnorm=thawed: choose one of frozen, moving"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(compose, override, message):
    with pytest.raises(GluonexpError, match=f"^{message}"):
        compose(override)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("freeze.rules=[{macth: '*'}]", "Key 'macth' not in 'FreezeRule'"),
        ("freeze.unfreeze=[{epoch: soon, match: '*'}]", "Value 'soon' of type 'str' could not be"),
    ],
)
def test_a_typo_in_a_rule_dies_while_composing(compose, override, reason):
    with pytest.raises(HydraException) as refused:
        compose(override)
    assert reason in str(refused.value.__cause__)


def test_planning_loads_no_mxnet():
    asked = "import sys, gluonexp.freeze; print('mxnet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# Work


def test_alexnet_takes_714_million_multiply_accumulates():
    # Convolutions (output pixels x kernel x channels in x channels out), then Dense.
    expected = (
        55 * 55 * 11 * 11 * 3 * 64
        + 27 * 27 * 5 * 5 * 64 * 192
        + 13 * 13 * 3 * 3 * (192 * 384 + 384 * 256 + 256 * 256)
        + 9216 * 4096
        + 4096 * 4096
        + 4096 * 1000
    )
    assert expected == 714_188_480
    macs = Work(gluon.model_zoo.vision.alexnet()).macs((3, 224, 224))
    assert sum(macs.values()) == expected


def test_groups_and_unflattened_dense_layers_count_as_what_they_do():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(6, 3, groups=3, in_channels=3), nn.Dense(5, flatten=False))
    grouped, dense = Work(with_shapes(net)).macs(IMAGE).values()
    assert grouped == 6 * 6 * 3 * 3 * 1 * 6
    assert dense == 6 * 6 * 6 * 5  # on each of 6 x 6 positions, of the last axis


def test_shares_of_the_work_add_up_and_stand_on_weights():
    rows = planned(NET, [("*",)]).rows
    assert sum(row.flops_share for row in rows) == pytest.approx(1)
    shares = {row.parameter: row.flops_share for row in rows if row.flops_share}
    assert list(shares) == [name for name in NAMES if name.endswith("weight")]
    # 6 x 6 pixels of 4 x 27 against 4 x 4 of 4 x 36
    assert shares["backbone.0.weight"] / shares["backbone.3.0.weight"] == pytest.approx(
        3888 / 2304
    )


def test_planning_does_not_rename_later_networks():
    with mx.name.NameManager():
        before = nn.Dense(1)
        planned(NET, [("*",)])
        after = nn.Dense(1)
    assert (before.name, after.name) == ("dense0", "dense1")


# Notes


def notes(net, match_and_state, **config):
    return " / ".join(planned(net, match_and_state, **config).notes)


def test_an_unfrozen_plan_needs_no_note():
    assert notes(NET, [("*",)]) == ""


def test_frozen_statistics_are_noted():
    assert "2 BatchNorm layer(s), from backbone.1 on, normalize by their frozen" in notes(
        NET, [("backbone.*", "frozen"), ("*",)]
    )


def test_statistics_that_a_cpu_would_not_move_are_noted():
    frozen = [("backbone.*", "frozen"), ("*",)]
    assert "2 BatchNorm layer(s), from backbone.1 on, normalize by each batch" in notes(
        NET, frozen, batchnorm="moving"
    )
    first = [("backbone[0].*",), *frozen]  # then gradients pass both
    assert "by each batch" not in notes(NET, first, batchnorm="moving")
    second = [("backbone[1].*",), *frozen]
    assert "1 BatchNorm layer(s), from backbone.1 on, normalize by each batch" in notes(
        NET, second, batchnorm="moving"
    )


def test_dropout_is_noted_where_it_stands_among_frozen_layers_or_feeds_one():
    assert "Dropout" not in notes(NET, [("*",)])
    for policy in ([("head.0.*", "frozen"), ("*",)], [("backbone.*", "frozen"), ("*",)]):
        assert "Dropout stays active among frozen layers: backbone.5" in notes(NET, policy)


def test_a_dense_bias_cannot_train_without_its_weight():
    message = r"^freeze: head\.0\.bias would train while head\.0\.weight is frozen"
    for policy, unfreeze in (
        ([("head.0.weight", "frozen"), ("*",)], []),
        ([("head.0.*", "frozen"), ("*",)], [Unfreeze(1, "head.0.bias")]),
    ):
        with pytest.raises(GluonexpError, match=message):
            planned(NET, policy, unfreeze=unfreeze)
    # The other way round is right, and so is the bias that follows its weight.
    planned(NET, [("head.0.bias", "frozen"), ("*",)])
    planned(
        NET,
        [("head.0.*", "frozen"), ("*",)],
        unfreeze=[Unfreeze(1, "head.0.weight"), Unfreeze(2, "head.0.bias")],
    )


def test_what_the_last_epoch_does_not_reach_is_noted():
    config = FreezeConfig(
        "test",
        [FreezeRule("backbone.*", "frozen"), FreezeRule("*")],
        unfreeze=[Unfreeze(2, "backbone[-1].*"), Unfreeze(4, "backbone.*")],
    )

    def late(epochs):
        noted = freeze.plan(OUTLINE, config, epochs).notes
        return [note for note in noted if "would be released" in note]

    assert late(None) == late(5) == []
    fourth = "backbone.0, backbone.1, backbone.3 would be released in epoch 4, but training ends"
    assert late(4) == [f"{fourth} after epoch 3 (trainer.epochs=4)"]
    assert late(2) == [
        "backbone.4 would be released in epoch 2, but training ends after epoch 1 "
        "(trainer.epochs=2)",
        f"{fourth} after epoch 1 (trainer.epochs=2)",
    ]


def test_a_layer_that_hardly_learns_is_noted():
    assert "backbone.0.weight learns at 1e-06 of" in notes(NET, [("*",)], decay=0.01)
    assert "hardly" not in notes(NET, [("*",)], decay=0.1)
