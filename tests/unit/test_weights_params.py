"""Files of MXNet arrays, in every naming: what goes in comes out bit for bit, or is refused."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, mx, nd, nn
from gluonexp.model_folder import params
from gluonexp.model_folder.network import read_params
from gluonexp.models.mlp import mlp
from gluonexp.weights import names

# A plain chain of convolutions, and one with branches, batch norms and running statistics.
BACKBONES = ("squeezenet1.1", "resnet18_v1")
SIDE = 224  # pixels


def made(backbone, **arguments):
    """Return a network of the zoo whose every value differs, running statistics included."""
    net = gluon.model_zoo.vision.get_model(backbone, **arguments)
    net.initialize()
    net.hybridize()
    net(nd.zeros((1, 3, SIDE, SIDE)))
    rng = np.random.default_rng(0)
    for parameter in net.collect_params().values():
        parameter.set_data(nd.array(rng.normal(size=parameter.shape), dtype="float32"))
    net(nd.zeros((1, 3, SIDE, SIDE)))
    nd.waitall()
    return net


@pytest.fixture(scope="module", params=BACKBONES)
def net(request):
    net = made(request.param)
    net.zoo_name = request.param
    return net


def values(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def read(path, backbone):
    return names.to_structural(params.load(path), backbone, path)


def structural(net, path):
    net.save_parameters(path)
    return path


def counted(net, path):
    net.collect_params().save(path)
    return path


def deprecated(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.save_params(path)
    return path


def exported(net, path):
    net.export(path.removesuffix(".params"), epoch=0)
    return path.removesuffix(".params") + "-0000.params"


@pytest.mark.parametrize("write", [structural, counted, deprecated, exported])
def test_every_naming_comes_back_bit_for_bit(net, write, tmp_path):
    path = write(net, str(tmp_path / "net.params"))
    assert_same(read(Path(path), net.zoo_name), values(net))


def test_the_names_in_the_file_are_those_that_the_naming_says(net, tmp_path):
    found = {
        write.__name__: next(iter(params.load(Path(write(net, str(tmp_path / "n.params"))))))
        for write in (structural, counted, deprecated, exported)
    }
    first = next(iter(net.collect_params()))
    assert found == {
        "structural": "features.0.weight",
        "counted": first,
        "deprecated": first.removeprefix(net.prefix),
        "exported": f"arg:{first}",
    }


def test_the_counter_in_a_prefix_does_not_matter(tmp_path):
    other = made("squeezenet1.1", prefix="mine42_")
    path = counted(other, str(tmp_path / "n.params"))
    assert next(iter(params.load(Path(path)))) == "mine42_conv0_weight"
    assert_same(read(Path(path), "squeezenet1.1"), values(other))


def tuned(backbone, layers):
    """Return the first layers of a zoo network under a head, named as gluonexp's own are."""
    body = made(backbone)
    net = nn.HybridSequential(prefix="")
    net.backbone, net.head = nn.HybridSequential(prefix=""), nn.HybridSequential(prefix="head_")
    net.backbone.add(*list(body.features)[:layers])
    with net.head.name_scope():
        net.head.add(nn.Dense(16, activation="relu"), nn.Dropout(0.5), nn.Dense(3))
    net.head.initialize()
    net.hybridize()
    net(nd.zeros((1, 3, SIDE, SIDE)))
    return net


@pytest.mark.parametrize(("backbone", "layers"), [("squeezenet1.1", 7), ("resnet18_v1", 6)])
def test_a_fine_tuned_network_gives_its_backbone_and_its_head(backbone, layers, tmp_path):
    net = tuned(backbone, layers)
    expected = {name.replace("backbone.", "features."): a for name, a in values(net).items()}
    path = structural(net, str(tmp_path / "model.params"))
    found = read(Path(path), backbone)
    assert list(found)[-4:] == ["head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"]
    assert_same(found, expected)
    # An export names the head by counters, from which no one can tell its places.
    found = read(Path(exported(net, str(tmp_path / "model.params"))), backbone)
    heads = [name for name in found if name.startswith("head_")]
    assert heads == [
        f"head_dense{place}_{kind}" for place in (0, 1) for kind in ("weight", "bias")
    ]
    assert_same(
        {name: array for name, array in found.items() if name not in heads},
        {name: array for name, array in expected.items() if name.startswith("features.")},
    )


def test_a_network_for_other_classes_has_the_same_features(tmp_path):
    net = made("squeezenet1.1", classes=7)
    found = read(Path(structural(net, str(tmp_path / "n.params"))), "squeezenet1.1")
    assert found["output.0.weight"].shape[0] == 7
    assert_same(found, values(net))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_become_float32(net, dtype, tmp_path):
    arrays = {name: array.astype(dtype) for name, array in values(net).items()}
    nd.save(str(tmp_path / "n.params"), {n: nd.array(a, dtype=dtype) for n, a in arrays.items()})
    assert_same(
        read(tmp_path / "n.params", net.zoo_name),
        {name: array.astype(np.float32) for name, array in arrays.items()},
    )


# --- the file itself -----------------------------------------------------------------------------

DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text("aä_.:0", min_size=1, max_size=9),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(1, 4), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_any_arrays_are_read_as_mxnet_wrote_them(tmp_path_factory, layouts):
    path = tmp_path_factory.mktemp("any") / "a.params"
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 100, size=shape).astype(dtype)
        for name, (dtype, shape) in layouts.items()
    }
    nd.save(str(path), {name: nd.array(a, dtype=a.dtype) for name, a in arrays.items()})
    found = params.load(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def old_file(array, *, version):
    """Return the bytes of a file as MXNet before 1.0 wrote it, whose zoo's files still exist."""
    rank = array.ndim
    shape = (
        struct.pack(f"<I{rank}I", rank, *array.shape)
        if version == 0
        else struct.pack(f"<Ii{rank}q", 0xF993FAC8, rank, *array.shape)
    )
    name = b"conv0_weight"
    return (
        struct.pack("<QQQ", 0x112, 0, 1)
        + shape
        + struct.pack("<iii", 1, 0, 0)  # cpu(0), float32
        + array.tobytes()
        + struct.pack("<QQ", 1, len(name))
        + name
    )


@pytest.mark.parametrize("version", [0, 1])
def test_files_of_old_versions_are_read_as_mxnet_reads_them(version, tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = tmp_path / "old.params"
    path.write_bytes(old_file(array, version=version))
    np.testing.assert_array_equal(nd.load(str(path))["conv0_weight"].asnumpy(), array)
    assert list(params.load(path)) == ["conv0_weight"]
    np.testing.assert_array_equal(params.load(path)["conv0_weight"], array)


def test_arrays_with_the_shapes_of_numpy_are_read(tmp_path):
    path = str(tmp_path / "np.params")
    with mx.util.np_shape(True), mx.util.np_array(True):
        mx.npx.save(path, {"a": mx.np.ones(()), "b": mx.np.ones((2, 3)), "c": mx.np.ones((0, 3))})
    found = params.load(Path(path))
    assert {name: array.shape for name, array in found.items()} == {
        "a": (),
        "b": (2, 3),
        "c": (0, 3),
    }
    assert found["a"] == 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "n.params"
    nd.save(str(path), {"features.0.weight": nd.ones((2, 3)), "features.0.bias": nd.ones((3,))})
    return path.read_bytes()


@settings(max_examples=60)
@given(st.data())
def test_a_truncated_file_is_refused(tmp_path_factory, sound, data):
    path = tmp_path_factory.mktemp("cut") / "n.params"
    path.write_bytes(sound[: data.draw(st.integers(0, len(sound) - 1))])
    with pytest.raises(GluonexpError, match=r"n\.params: (damaged: it ends too early|not a file)"):
        params.load(path)


V3 = 0xF993FACA  # the number of files with the shapes of NumPy


@pytest.mark.fuzz
def test_any_damage_is_read_or_refused_and_asks_for_nothing(fuzz, sound):
    def read(path):
        found = params.load(path)
        assert sum(array.nbytes for array in found.values()) <= path.stat().st_size

    def file(shape):
        layout = f"<QQQIii{len(shape)}qiiiQQ1s"
        return struct.pack(layout, 0x112, 0, 1, V3, 0, len(shape), *shape, 1, 0, 0, 1, 1, b"a")

    sides = st.lists(st.sampled_from([0, 1, 2, 2**31, 2**40, 2**62, -1]), max_size=34)
    fuzz(read, fuzz.damaged(sound) | sides.map(file), "n.params")


@pytest.mark.fuzz
def test_any_damage_to_exported_parameters_is_read_or_refused(fuzz, tmp_path):
    path = str(tmp_path / "sound")
    nd.save(path, {"arg:weight": nd.ones((2, 1)), "aux:mean": nd.ones((1,), dtype="float16")})
    fuzz(read_params, fuzz.damaged(Path(path).read_bytes()), "n.params")


def test_a_shape_beyond_the_file_allocates_nothing(tmp_path):
    path = tmp_path / "huge.params"
    array = np.ones((2, 3, 4), dtype=np.float32)
    path.write_bytes(old_file(array, version=1).replace(b"\2\0\0\0\0\0\0\0", b"\2" * 7 + b"\0"))
    with pytest.raises(GluonexpError, match="damaged: it ends too early"):
        params.load(path)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (struct.pack("<Iii", 0xF993FAC9, 0, 0), "holds an array that was never filled"),
        (struct.pack("<Iiiqiii", 0xF993FAC9, 0, 1, 0, 1, 0, 0), "holds 10001 arrays, which no"),
    ],
    ids=["never filled", "many"],
)
def test_a_small_file_cannot_hold_ever_so_many_arrays(array, reason, tmp_path):
    path = tmp_path / "many.params"
    count = 10_001 if reason.startswith("holds 10001") else 1
    names = b"".join(struct.pack("<Q", 4) + b"%04x" % n for n in range(count))
    path.write_bytes(
        struct.pack("<QQQ", 0x112, 0, count) + array * count + struct.pack("<Q", count) + names
    )
    with pytest.raises(GluonexpError, match=rf"many\.params: {reason}"):
        params.load(path)


def test_what_is_no_dictionary_of_dense_arrays_is_refused(tmp_path):
    path = tmp_path / "a.params"
    nd.save(str(path), [nd.ones((2,))])
    with pytest.raises(GluonexpError, match="holds 1 arrays, but names for 0"):
        params.load(path)
    nd.save(str(path), {"a": nd.ones((2, 2)).tostype("row_sparse")})
    with pytest.raises(GluonexpError, match="holds sparse arrays"):
        params.load(path)
    with pytest.raises(GluonexpError, match=r"none\.params cannot be read: No such file"):
        params.load(tmp_path / "none.params")


# --- another network -----------------------------------------------------------------------------


def refused(arrays, backbone):
    with pytest.raises(GluonexpError) as caught:
        names.to_structural(arrays, backbone, "file.params")
    return str(caught.value)


@pytest.fixture(scope="module")
def squeezenet():
    """Values by structural name, for no memory: the shapes are what is looked at."""
    return {
        name: np.broadcast_to(np.float32(0), entry.shape)
        for name, entry in names.layout("squeezenet1.1").items()
    }


def test_the_first_difference_is_named(squeezenet):
    start = "file.params: not the weights of "
    assert refused(squeezenet, "squeezenet1.0") == (
        f"{start}squeezenet1.0: features.0.weight is (64, 3, 3, 3) there and (96, 3, 7, 7) in the "
        "network"
    )
    assert refused(squeezenet, "densenet121") == (
        f"{start}densenet121: features.0.weight is (64, 3, 3, 3) there and (64, 3, 7, 7) in the "
        "network"
    )
    assert refused({"fc7_weight": np.zeros(3)}, "resnet18_v2") == (
        f"{start}resnet18_v2: it has fc7_weight, and no features.0.gamma"
    )
    assert refused({}, "alexnet") == f"{start}alexnet: it has nothing, and no features.0.weight"
    gap = {name: array for name, array in squeezenet.items() if name != "features.0.bias"}
    assert refused(gap, "squeezenet1.1") == f"{start}squeezenet1.1: it has no features.0.bias"
    more = squeezenet | {"features.13.weight": np.zeros(3)}
    assert refused(more, "squeezenet1.1") == (
        f"{start}squeezenet1.1: it also has features.13.weight"
    )
    whole = squeezenet | {"features.0.bias": np.zeros(64, dtype=np.int32)}
    assert refused(whole, "squeezenet1.1") == (
        "file.params: features.0.bias holds int32, not floating-point numbers"
    )


def test_another_depth_of_the_same_family_is_refused():
    shallow = {
        name: np.broadcast_to(np.float32(0), entry.shape)
        for name, entry in names.layout("resnet18_v1").items()
    }
    assert refused(shallow, "resnet34_v1").endswith(
        "resnet34_v1: it has no features.4.2.body.0.weight"
    )
    by_counter = {
        f"resnetv10_{entry.counted}": np.broadcast_to(np.float32(0), entry.shape)
        for entry in names.layout("resnet34_v1").values()
    }
    assert "resnet18_v1: " in refused(by_counter, "resnet18_v1")


@pytest.mark.parametrize(
    ("backbone", "dense"),
    [("alexnet", "features.9.weight"), ("vgg11", "features.21.weight")],
)
def test_the_first_dense_layer_may_be_for_images_of_another_size(backbone, dense):
    arrays = {
        name: np.broadcast_to(np.float32(0), entry.shape)
        for name, entry in names.layout(backbone).items()
    }
    small = arrays | {dense: np.broadcast_to(np.float32(0), (4096, 256))}
    found = names.to_structural(small, backbone, "file.params")
    assert list(found) == list(arrays)
    assert found[dense].shape == (4096, 256)
    for wrong in ((4095, 256), (4096, 256, 1)):
        assert f"{dense} is {wrong} there" in refused(
            arrays | {dense: np.broadcast_to(np.float32(0), wrong)}, backbone
        )
    later = list(arrays)[list(arrays).index(dense) + 2]  # another Dense
    assert f"{later} is (4096, 256) there" in refused(
        arrays | {later: np.broadcast_to(np.float32(0), (4096, 256))}, backbone
    )


def test_a_network_of_ones_own_is_refused(tmp_path):
    net = mlp(classes=3)
    net.initialize()
    net(nd.zeros((1, 1, 8, 8)))
    path = Path(structural(net, str(tmp_path / "mlp.params")))
    with pytest.raises(GluonexpError, match=r"mlp\.params: not the weights of alexnet: it has "):
        read(path, "alexnet")


def test_a_network_that_the_zoo_has_not_is_refused():
    with pytest.raises(GluonexpError, match="alexnett: no network of Gluon's model zoo"):
        names.layout("alexnett")


@pytest.mark.parametrize(
    "backbone",
    [
        "alexnet",
        "densenet121",
        "inceptionv3",
        "mobilenet0.25",
        "mobilenetv2_0.25",
        "resnet50_v1",
        "resnet50_v2",
        "squeezenet1.0",
        "vgg11",
        "vgg11_bn",
    ],
)
def test_the_names_and_shapes_are_known_of_every_family(backbone):
    entries = names.layout(backbone)
    assert len(entries) > 10
    assert all(min(entry.shape) > 0 for entry in entries.values())
    assert len({entry.counted for entry in entries.values()}) == len(entries)
    # None of them was made in a scope that counts on from network to network.
    assert names.layout.__wrapped__(backbone) == entries


def test_the_shapes_are_those_that_a_forward_pass_gives(net):
    with_shapes = {name: entry.shape for name, entry in names.layout(net.zoo_name).items()}
    assert with_shapes == {name: array.shape for name, array in values(net).items()}
