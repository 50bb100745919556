"""Constructors from configuration: what may be named, and what is checked before training."""

import numpy as np
import pytest

from gluonexp import assembly
from gluonexp.assembly import networks
from gluonexp.assembly.targets import constructor
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import mx, nd, nn
from gluonexp.data.types import Samples, Spec, Split

TEN = tuple("0123456789")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "gluonexpx.models.mlp",
        "gluonexp.training.checkpoint.os.system",
        "gluonexp.training.checkpoint.shutil.rmtree",
        "gluonexp.assembly.importlib.import_module",
        "gluonexp.inference.predict.np.load",
    ],
)
def test_a_target_outside_the_allowed_packages_is_refused(target):
    with pytest.raises(GluonexpError, match=r"^model\._target_="):
        constructor({"_target_": target}, "model", ["gluonexp"])


@pytest.mark.parametrize("target", ["gluonexp.models.nothing.at_all", "gluonexp.models.mlp.nope"])
def test_a_target_that_does_not_exist_is_named(target):
    with pytest.raises(GluonexpError, match=f"model._target_={target}"):
        constructor({"_target_": target}, "model", ["gluonexp"])


def test_an_own_package_can_be_allowed():
    node = {"_target_": "fractions.Fraction", "numerator": 3}
    with pytest.raises(GluonexpError, match=r"build\.allow=\[fractions\]"):
        constructor(node, "model", ["gluonexp"])
    assert constructor(node, "model", ["gluonexp", "fractions"])() == 3


def test_arguments_are_checked_before_anything_is_called():
    node = {"_target_": "gluonexp.models.mlp.mlp", "hiden": [8]}
    with pytest.raises(GluonexpError, match=r"model\.hiden: .* did you mean hidden\?"):
        constructor(node, "model", ["gluonexp"], provided=("classes",))
    with pytest.raises(GluonexpError, match=r"model\.classes: .* needs a value"):
        constructor({"_target_": "gluonexp.models.mlp.mlp"}, "model", ["gluonexp"])


def test_nested_targets_are_built_too():
    node = {
        "_target_": "fractions.Fraction",
        "numerator": {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2},
        "denominator": 2,
    }
    assert constructor(node, "x", ["fractions"])() == 0.25


def test_a_constructor_that_refuses_its_values_is_one_message():
    node = {"_target_": "gluonexp.models.cnn.cnn", "channels": [1, 2, 3]}
    construct = constructor(node, "model", ["gluonexp"], provided=("classes",))
    with pytest.raises(GluonexpError, match=r"^model: gluonexp\.models\.cnn\.cnn refused"):
        construct(classes=10)


def _network(compose, *overrides, spec=None):
    config = compose(*overrides)
    plan = assembly.components(config)
    spec = spec or plan.source.spec()
    steps = networks.preprocessing(config.dataset, spec)
    networks.seed(config.seed)
    net = networks.network(config, plan.model, spec, steps)
    networks.initialize(config, net, spec, mx.cpu())
    return net


def test_a_model_that_cannot_take_the_images_is_refused_with_both_named(compose):
    with pytest.raises(GluonexpError) as error:
        _network(compose, "dataset.resize=8")
    assert "cnn cannot take 1x8x8 images" in str(error.value)
    assert "dataset digits" in str(error.value)
    assert "\n" not in str(error.value)


def test_shapes_are_known_without_a_batch_and_names_do_not_count_networks(compose):
    first = _network(compose)
    again = _network(compose)
    assert list(first.collect_params()) == list(again.collect_params())
    shapes = {k: p.shape for k, p in first._collect_params_with_prefix().items()}
    assert shapes["0.weight"] == (20, 1, 5, 5)
    assert shapes["5.hidden.weight"] == (256, 50 * 5 * 5)
    assert shapes["5.output.weight"] == (10, 256)


class Own(nn.HybridBlock):
    """A network of the user's: a dense layer, and a function (F, x) after it."""

    def __init__(self, units, function):
        super().__init__()
        self.function = function
        with self.name_scope():
            self.dense = nn.Dense(units)

    def hybrid_forward(self, F, x):
        return self.function(F, self.dense(x))


def _own(compose, units, function, classes):
    """Return a run's network, initialized and checked, and what it needs to be called."""
    config, spec = compose(), Spec(8, 8, 1, TEN[:classes])
    steps = networks.preprocessing(config.dataset, spec)
    net = networks.network(config, lambda classes: Own(units, function), spec, steps)
    networks.initialize(config, net, spec, mx.cpu())
    networks.check_images(config, net, steps, mx.cpu())
    return net


@pytest.mark.parametrize(
    ("function", "sigmoid"),
    [
        (lambda F, x: x, False),
        (lambda F, x: F.clip(x * 0.5, -9, 9), False),
        (lambda F, x: F.sigmoid(x), True),
        (lambda F, x: F.clip(F.sigmoid(x), 1e-6, 1 - 1e-6), True),
    ],
)
def test_one_output_is_two_classes(compose, function, sigmoid):
    net = _own(compose, 1, function, classes=2)
    assert "one output is taken for two classes" in networks.note(net)
    images = nd.random.normal(shape=(5, 1, 8, 8))
    one = net.net(images).asnumpy()[:, 0]
    p = one if sigmoid else 1 / (1 + np.exp(-one))
    found = nd.softmax(net(images)).asnumpy()
    np.testing.assert_allclose(found, np.stack([1 - p, p], axis=1), atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [lambda F, x: 1 / (1 + F.exp(-x)), lambda F, x: F.relu(x), lambda F, x: (F.tanh(x) + 1) / 2],
)
def test_one_output_that_is_neither_a_logit_nor_a_sigmoid_is_refused(compose, function):
    """As logits, values that are never negative would always be of the second class."""
    with pytest.raises(GluonexpError, match="gives one value for an image, which is what own0_"):
        _own(compose, 1, function, classes=2)


def test_probabilities_are_refused_under_what_changes_nothing(compose):
    with pytest.raises(GluonexpError, match="ends in own0_softmax0"):
        _own(compose, 10, lambda F, x: F.clip(F.identity(F.softmax(x)), 0, 1), classes=10)


def test_a_layer_that_is_not_used_is_named(compose):
    net = Own(10, lambda F, x: x)
    net.idle = nn.Dense(3, prefix="idle_")
    config, spec = compose(), Spec(8, 8, 1, TEN)
    steps = networks.preprocessing(config.dataset, spec)
    with pytest.raises(GluonexpError, match="does not use idle_weight, idle_bias for its answer"):
        networks.network(config, lambda classes: net, spec, steps)


def test_two_parameters_of_one_name_are_told(compose):
    net = nn.HybridSequential()
    net.add(nn.Dense(10, prefix="twice_"), nn.Dense(10, prefix="twice_"))
    config, spec = compose(), Spec(8, 8, 1, TEN)
    steps = networks.preprocessing(config.dataset, spec)
    with pytest.raises(GluonexpError, match=r"^model: .* same name 'twice_weight'"):
        networks.network(config, lambda classes: net, spec, steps)


def test_half_precision_that_the_processor_cannot_compute_is_told(compose):
    def half(F, x):
        return F.cast(F.dot(F.cast(x, "float16"), F.ones((10, 10))), "float32")

    with pytest.raises(GluonexpError, match="model: cannot be run on images"):
        _own(compose, 10, half, classes=10)


def test_one_output_of_three_classes_is_none(compose):
    with pytest.raises(GluonexpError, match=r"gives \(1,\) values .* has 3 classes"):
        _own(compose, 1, lambda F, x: x, classes=3)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda F, x: F.broadcast_sub(x, F.mean(x, axis=0)), r"from layer own\d*_mean0 \(mean\)"),
        (lambda F, x: F.Dropout(x, p=0.5, mode="always"), "changes from call to call"),
    ],
)
def test_an_image_must_be_answered_by_itself_before_it_is_trained(compose, function, said):
    with pytest.raises(GluonexpError, match=f"cannot be exported: .*{said}"):
        _own(compose, 3, function, classes=3)


def test_the_seed_decides_the_initial_weights(compose):
    def weights(seed):
        net = _network(compose, f"seed={seed}")
        return net._collect_params_with_prefix()["0.weight"].data().asnumpy()

    assert (weights(1) == weights(1)).all()
    assert (weights(1) != weights(2)).any()


def test_mean_and_std_must_fit_the_channels(compose):
    config = compose("dataset.mean=[0.1,0.2]")
    with pytest.raises(GluonexpError, match=r"dataset\.mean=\[0\.1, 0\.2\]"):
        networks.preprocessing(config.dataset, Spec(28, 28, 1, TEN))


def test_a_callback_must_watch_something_that_is_measured(compose):
    with pytest.raises(GluonexpError, match=r"callbacks\.checkpoint\.metric=val/accuracy"):
        assembly.components(compose("callbacks.checkpoint.metric=val/accuracy"))
    with pytest.raises(GluonexpError, match=r"callbacks\.early_stopping watches val/acc"):
        assembly.components(compose("callbacks=early_stopping", "dataset.val_fraction=0"))
    # The checkpoint keeps the last epoch then, and it is said that nothing is validated.
    (note,) = assembly.components(compose("dataset.val_fraction=0")).notes
    assert note.startswith("objective.metric=val/acc is not measured: dataset.val_fraction=0")
    for words in (["dataset.val_fraction=0", "objective.metric=train/acc"], []):
        assert assembly.components(compose(*words)).notes == ()
    with pytest.raises(GluonexpError, match=r"decay=abc: must be above 0 and below 1"):
        assembly.components(compose("callbacks=ema", "callbacks.ema.decay=abc"))


def test_a_class_must_have_a_name_that_can_be_exported(compose, monkeypatch):
    spec = Spec(28, 28, 1, (*TEN[:9], "a\nb"))
    monkeypatch.setattr("gluonexp.data.digits.Digits.spec", lambda self: spec)
    words = ("dataset=digits", "export=default")
    with pytest.raises(GluonexpError, match=r"^dataset digits: the class 'a\\nb': a name holds"):
        assembly.components(compose(*words))


def test_a_network_says_how_many_channels_it_needs(compose):
    with pytest.raises(GluonexpError, match=r"needs images of 3 channels .*channels=3$"):
        _network(compose, "dataset=digits", "model=fast_cnn")
    _network(compose, "dataset=digits", "model=fast_cnn", "dataset.channels=3")


def test_a_callback_must_be_one(compose):
    with pytest.raises(GluonexpError, match=r"callbacks\.mine: .* is no"):
        assembly.components(compose("+callbacks.mine._target_=gluonexp.data.digits.Digits"))


@pytest.mark.parametrize(
    "target",
    ["gluonexp", "gluonexp.tracking.ui.serve", "gluonexp.data.split._x", "gluonexp.models..x", ""],
)
def test_only_the_public_parts_of_gluonexp_may_be_named(target):
    with pytest.raises(GluonexpError, match=r"^model\._target_="):
        constructor({"_target_": target}, "model", ["gluonexp"])


class _Own:
    """A data set of one's own, with whatever mistakes."""

    def __init__(self, images, labels):
        self.samples = Samples(Split(images, labels), None, "own")

    def spec(self):
        return Spec(4, 4, 1, ("a", "b", "c"))

    def load(self):
        return self.samples


IMAGES = np.zeros((9, 4, 4, 1), np.uint8)
LABELS = np.arange(9) % 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS + 1, "labels run from 1 to 3"),
        (IMAGES, LABELS - 1, "labels run from -1 to 1"),
        (IMAGES, LABELS.astype(float), "labels are float64"),
        (IMAGES[:8], LABELS, r"images are uint8 \(8, 4, 4, 1\)"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, r"images are uint8 \(9, 1, 4, 4\)"),
        (IMAGES.astype(np.float32), LABELS, "images are float32"),
        (np.zeros((9, 8, 4, 1), np.uint8), LABELS, r"images are uint8 \(9, 8, 4, 1\)"),
        (IMAGES[:0], LABELS[:0], "holds no images"),
    ],
)
def test_samples_must_be_what_their_spec_says(compose, images, labels, message):
    with pytest.raises(GluonexpError, match=f"dataset digits, train split: {message}"):
        assembly.data(compose(), _Own(images, labels))


def test_samples_that_do_not_fit_into_memory_are_told(compose):
    class Large(_Own):
        def load(self):
            return np.empty((1_000_000,) * 3, np.uint8)

    said = r"^dataset digits: its images do not fit into memory: .*fewer ones$"
    with pytest.raises(GluonexpError, match=said):
        assembly.data(compose(), Large(IMAGES, LABELS))


def test_right_samples_are_taken_and_split(compose):
    data = assembly.data(compose("dataset.val_fraction=0.34"), _Own(IMAGES, LABELS))
    assert [len(split) for split in data.splits().values()] == [6, 3]
    assert data.held_out() == ("val", data.val)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scheduler=step", None),
        ("scheduler.warmup_epochs=soon", "^scheduler: "),
    ],
)
def test_wrong_values_are_found_before_data_are_read(compose, override, message):
    config = compose(override, "callbacks.checkpoint=null")
    if message is None:
        assembly.components(config)
        return
    with pytest.raises(GluonexpError, match=message):
        assembly.components(config)
