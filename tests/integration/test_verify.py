"""Exports are certified in clean processes, and what was changed afterwards is found out."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import autograd, gluon, mx, nd, nn
from gluonexp.base.workers import WorkerDied, Workers
from gluonexp.export import int8, symbol, uint8
from gluonexp.export.onnx import convert
from gluonexp.export.torch import convert as pytorch
from gluonexp.graph.graph import Graph
from gluonexp.model_folder import names, samples
from gluonexp.model_folder.network import read_network, read_symbol
from gluonexp.model_folder.preprocess import Preprocess
from gluonexp.model_folder.samples import ProofSamples
from gluonexp.model_folder.signature import Preprocessing, Signature
from gluonexp.verification import agreement, certificate, divergence, runtimes, score, verify
from gluonexp.verification.runtimes import available

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

CLASSES = ("circle", "square", "t-shirt/top")
SHAPE = (3, 12, 12)
RUNTIMES = ("module", "symbolblock", "onnx", "openvino")
FOR_IMAGES = ("uint8", "uint8.onnx")


@pytest.fixture(scope="module")
def pool():
    with Workers(2, score.warm_up) as workers:
        workers.start()
        yield workers


@pytest.fixture(scope="module")
def trained():
    """Train a network with BatchNorm for a few steps; return (network, steps, samples)."""
    mx.random.seed(3)
    with mx.name.NameManager():
        net = nn.HybridSequential(prefix="net_")
        with net.name_scope():
            net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(0.5))
            net.add(nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Xavier())
    net.hybridize(static_alloc=True, static_shape=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(40, 6, 6, 1), dtype=np.uint8)
    steps = Preprocess(Preprocessing(12, 12, 3, (0.5,), (0.25,)), (6, 6, 1))
    inputs = steps(nd.array(images, dtype="uint8"))
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    for _ in range(3):
        with autograd.record():
            loss = net(inputs).square()
        loss.backward()
        trainer.step(len(images))
    labels = rng.integers(0, 3, size=40)
    return net, steps, ProofSamples(images, labels, net(inputs).asnumpy(), CLASSES)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return an export of everything but int8, not certified yet."""
    net, steps, known = trained
    folder = tmp_path_factory.mktemp("exported")
    symbol.export(net, folder, Signature((6, 6, 1), steps._steps, CLASSES))
    network = read_network(folder, names.MODEL, "data", (1, *SHAPE))
    convert.write(network, folder, SHAPE)
    uint8.write(folder, with_onnx=True)
    samples.write(folder, known)
    return folder


@pytest.fixture(scope="module")
def once_certified(exported, pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified") / "export"
    shutil.copytree(exported, folder)
    return folder, verify.certify(folder, pool=pool)


@pytest.fixture
def certified(once_certified, tmp_path):
    """Return a copy of a certified export, which the test may change."""
    shutil.copytree(once_certified[0], tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def fresh(exported, tmp_path):
    """Return a copy of an export without certificate, which the test may change."""
    shutil.copytree(exported, tmp_path / "export")
    return tmp_path / "export"


def inputs_of(folder, images):
    signature = Signature.read(folder)
    return Preprocess(signature.preprocess, signature.image).inputs(images)


def edited(folder, change, name="signature.json"):
    fields = json.loads((folder / name).read_text())
    change(fields)
    (folder / name).write_text(json.dumps(fields))


def mended(folder):
    """Do what a forger would: put today's digests into the certificate."""

    def change(fields):
        digests = certificate.digests(folder)
        fields["files"] = {name: digests[name] for name in fields["files"]}

    edited(folder, change, "certificate.json")


def flipped(path, position):
    """Flip the highest bit of the byte at `position`, counted from the end if negative."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0x80
    path.write_bytes(content)


def params_changed(folder, name, change):
    path = folder / "model-0000.params"
    values = nd.load(str(path))
    (key,) = [key for key in values if key.endswith(name)]
    values[key] = change(values[key])
    nd.save(str(path), values)


# Certifying.


def test_every_runtime_is_certified(once_certified, trained):
    folder, proved = once_certified
    found = [each.runtime for each in proved.agreements]
    assert found == [*RUNTIMES, *FOR_IMAGES] == available(folder)
    for each in proved.agreements:
        assert each.argmax_equal == each.images == 40
        assert each.max_difference < 1e-5
        assert (
            each.accuracy
            == proved.accuracy
            == np.mean(trained[2].logits.argmax(1) == trained[2].labels)
        )
        assert each.images_per_second > 0 and each.threads == 1
    assert proved.versions.keys() == {"python", "numpy", "mxnet", "onnxruntime", "openvino"}
    assert proved.tolerance["logits"] == 1e-4


def test_the_file_says_the_same_and_names_every_other_file(once_certified):
    folder, proved = once_certified
    assert certificate.read(folder) == proved
    assert {path.name for path in folder.iterdir()} == {*proved.files, "certificate.json"}
    assert proved.files == certificate.digests(folder)
    inputs = inputs_of(folder, samples.read(folder).images)
    np.testing.assert_allclose(proved.mean, inputs.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(proved.rms, np.sqrt(np.square(inputs).mean((0, 2, 3))), rtol=1e-5)


def test_what_is_no_part_of_an_export_is_not_vouched_for(fresh, pool):
    (fresh / "notes.txt").write_text("mine")
    assert "notes.txt" not in verify.certify(fresh, pool=pool).files


def test_the_files_for_pytorch_are_certified_and_forged_ones_refused(fresh, pool, monkeypatch):
    pytest.importorskip("torch")
    network = read_network(fresh, names.MODEL, "data", (1, *SHAPE))
    pytorch.write(network, fresh, Signature.read(fresh))
    proved = verify.certify(fresh, pool=pool)
    found = {each.runtime: each for each in proved.agreements}["torch"]
    assert found.max_difference < 1e-5 and found.threads == 1
    assert proved.files.keys() > {*names.TORCH} and "torch" in proved.versions

    text, values = (fresh / name for name in names.TORCH)
    flipped(values, -1)
    scored, known = score.score(fresh, ["torch"])["torch"], samples.read(fresh)
    assert not agreement.compare("torch", scored, known).holds
    flipped(values, -1)
    monkeypatch.setattr(verify, "_scored", lambda *arguments: pytest.fail("scored"))
    right = text.read_text()
    text.write_text(f"{right}#")
    with pytest.raises(GluonexpError, match=r"model\.py changed since 20"):
        verify.check(fresh, pool=pool)
    text.write_text(right)
    monkeypatch.undo()
    monkeypatch.setattr(
        runtimes,
        "versions",
        lambda name, own=runtimes.versions: {} if name == "torch" else own(name),
    )
    assert verify.check(fresh, pool=pool).notes == (
        "torch was certified, but cannot be tried: not installed here",
    )


def test_eight_bits_are_certified_by_their_accuracy(fresh, pool):
    if int8.unsupported():
        pytest.skip(int8.unsupported())
    known = samples.read(fresh)
    int8.quantize(fresh, inputs_of(fresh, known.images))
    samples.write(fresh, replace(known, labels=known.logits.argmax(1)))
    found = {each.runtime: each for each in verify.certify(fresh, pool=pool).agreements}["int8"]
    assert found.expected_correct == 40 and found.correct >= 39
    assert verify.check(fresh, pool=pool).notes == ()
    others = np.roll(known.logits, 1, axis=1)
    scored = score.score(fresh, ["int8"])["int8"]
    known = replace(known, logits=others, labels=others.argmax(1))
    assert not agreement.compare("int8", scored, known).holds


def test_what_diverged_in_training_is_not_certified(fresh, pool):
    known = samples.read(fresh)
    known.logits[3, 1] = np.nan
    samples.write(fresh, known)
    with pytest.raises(GluonexpError, match="not all finite numbers"):
        verify.certify(fresh, pool=pool)


@pytest.mark.parametrize(
    ("value", "layer"),
    [("conv0_weight", "net_conv0_fwd_output"), ("running_var", "net_batchnorm0_fwd_output")],
)
def test_a_disagreement_names_runtime_and_layer(fresh, trained, pool, value, layer):
    params_changed(fresh, value, lambda values: values * 1.5)
    with pytest.raises(GluonexpError) as caught:
        verify.certify(
            fresh, pool=pool, reference=lambda place: trained[0].export(str(place / "model"))
        )
    message = str(caught.value)
    assert "is not the trained network: module differs, logits within " in message
    assert "; symbolblock differs, " in message and "onnx differs" not in message
    assert f"the first layer output that differs is {layer}: by " in message
    assert not (fresh / "certificate.json").exists()


def test_a_wrong_onnx_names_its_layer(fresh, pool):
    import onnx as library

    model = library.load_model(str(fresh / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("dense0_bias"):
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + 1).tobytes()
    library.save_model(model, str(fresh / "model.onnx"))
    with pytest.raises(GluonexpError) as caught:
        verify.certify(fresh, pool=pool)
    message = str(caught.value)
    assert "is not the trained network: onnx differs, " in message
    assert "openvino differs, " in message and "symbolblock" not in message
    assert "the first layer output that differs is net_dense0_fwd_output: by " in message
    assert message.endswith("; export.onnx=false leaves ONNX out")
    inputs = inputs_of(fresh, samples.read(fresh).images[:1])
    found = divergence.first_difference(fresh, "openvino", inputs, 1e-4, None)
    assert found is not None and found.startswith("net_dense0_fwd_output: by ")


class Twice(nn.HybridBlock):
    """One layer, called twice: two operators of one name."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.flat, self.dense = nn.Flatten(), nn.Dense(3, in_units=3)

    def hybrid_forward(self, F, x):
        return self.dense(self.dense(self.flat(x)))


def test_a_layer_that_is_called_twice_is_told_apart(tmp_path):
    import onnx as library

    with mx.name.NameManager():
        net = Twice()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    inputs = np.random.default_rng(0).normal(size=(1, 3, 1, 1)).astype(np.float32)
    net(nd.array(inputs))
    steps = Preprocessing(1, 1, 3, (0.5,), (0.25,))
    network = symbol.export(net, tmp_path, Signature((1, 1, 3), steps, CLASSES))
    path = convert.write(network, tmp_path, (3, 1, 1))
    for runtime in RUNTIMES:
        assert divergence.first_difference(tmp_path, runtime, inputs, 1e-4, None) is None
    model = library.load_model(str(path))
    (second,) = [node for node in model.graph.node if "logits" in node.output]
    (bias,) = [each for each in model.graph.initializer if each.name == second.input[2]]
    model.graph.initializer.add().CopyFrom(bias)
    wrong = model.graph.initializer[-1]
    wrong.name = second.input[2] = "wrong"
    wrong.raw_data = np.ones(3, np.float32).tobytes()
    library.save_model(model, str(path))
    found = divergence.first_difference(tmp_path, "onnx", inputs, 1e-4, None)
    assert found is not None and found.startswith("net_dense0_fwd_1_output: by ")


def test_what_only_goes_wrong_where_module_fuses_is_searched(exported, monkeypatch):
    inputs = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    assert divergence.first_difference(exported, "module", inputs, 1e-4, None) is None
    graph = Graph.from_symbol(read_symbol(exported / "model-symbol.json"))
    layers = list(divergence._layers(graph))
    right = divergence._fused
    for wrong in layers:  # as a faulty kernel would: from one layer on, all is wrong

        def fused(network, name, given, layer, wrong=wrong):
            late = layers.index(layer) >= layers.index(wrong)
            return right(network, name, given, layer) * (1.5 if late else 1)

        monkeypatch.setattr(divergence, "_fused", fused)
        found = divergence.first_difference(exported, "module", inputs, 1e-4, None)
        assert found == f"{wrong}: by 5.0e-01 of its largest value"


def test_a_process_that_dies_is_no_proof(fresh, pool):
    class Dying(Workers):
        def stream(self, tasks):
            return pool.stream([(key, os.abort, ()) for key, *_ in tasks])

    with pytest.raises(GluonexpError, match=r" failed, the files may be damaged: .*SIGABRT"):
        verify.certify(fresh, pool=Dying(1))
    # How it ended otherwise says nothing of the files.
    with pytest.raises(GluonexpError, match=r"^x: module failed: its process ended"):
        verify._unless_failed(WorkerDied("its process ended with exit code 1"), "x: module")


# Checking again.


def test_an_untouched_export_is_verified_anywhere(once_certified, certified, pool):
    found = verify.check(certified, pool=pool)
    assert found.notes == ()
    assert found.files == once_certified[1].files
    assert [each.runtime for each in found.agreements] == [*RUNTIMES, *FOR_IMAGES]
    assert all(each.argmax_equal == 40 for each in found.agreements)


def test_it_starts_and_ends_its_own_processes(certified):
    assert len(verify.check(certified).agreements) == 6


@pytest.mark.parametrize(
    "name",
    [
        "model-0000.params",
        "model-symbol.json",
        "model.onnx",
        "samples.safetensors",
        "signature.json",
        "uint8-0000.params",
        "uint8.onnx",
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_one_changed_byte_is_found_in_any_file(certified, pool, name, place):
    path = certified / name
    flipped(path, int(place * (path.stat().st_size - 1)))
    with pytest.raises(GluonexpError, match=f"export: {name} changed since 20.* the sha256 of"):
        verify.check(certified, pool=pool)


def test_a_file_that_is_gone(certified, pool):
    (certified / "model.onnx").unlink()
    with pytest.raises(GluonexpError, match=r"model\.onnx was certified, and is gone"):
        verify.check(certified, pool=pool)


def swap_classes(fields):
    names = fields["classes"]
    names[0], names[2] = names[2], names[0]


def change_mean(fields):
    fields["preprocess"]["mean"] = [0.52]


def change_std(fields):
    fields["preprocess"]["std"] = [0.251]


def test_a_changed_signature_is_told_apart(certified, pool):
    edited(certified, swap_classes)
    with pytest.raises(GluonexpError) as caught:
        verify.check(certified, pool=pool)
    assert "signature.json changed since" in str(caught.value)
    assert "class 0 is 't-shirt/top', but 'circle' in samples.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (swap_classes, "class 0 is 't-shirt/top', but 'circle' in samples.safetensors"),
        (change_mean, "its preprocessing is not the one that was certified: the inputs' mean"),
        (change_std, "its preprocessing is not the one that was certified: the inputs' "),
        (lambda fields: fields["classes"].pop(), "not as many outputs as classes"),
        (lambda fields: fields.pop("preprocess"), "preprocess"),
        (lambda fields: fields["image"].update(height=7), r"its images are \(6, 6, 1\), but \(7"),
    ],
    ids=["classes", "mean", "std", "fewer", "none", "image"],
)
def test_a_changed_signature_with_a_mended_digest(certified, pool, change, reason):
    edited(certified, change)
    mended(certified)
    with pytest.raises(GluonexpError, match=reason):
        verify.check(certified, pool=pool)


def test_a_changed_mean_is_found_though_all_its_traces_are_mended(certified, pool):
    edited(certified, change_mean)
    inputs = inputs_of(certified, samples.read(certified).images)

    def forge(fields):
        fields["mean"] = inputs.mean(axis=(0, 2, 3), dtype=np.float64).tolist()
        fields["rms"] = np.sqrt(np.square(inputs).mean((0, 2, 3), np.float64)).tolist()

    edited(certified, forge, "certificate.json")
    mended(certified)
    with pytest.raises(GluonexpError, match="module differs, logits within"):
        verify.check(certified, pool=pool)


def test_one_byte_of_the_params_with_a_mended_digest(certified, pool):
    path = certified / "model-0000.params"
    weight = nd.load(str(path))["arg:net_dense0_weight"].asnumpy()
    flipped(path, path.read_bytes().index(weight.tobytes()) + 3)  # the sign of the first weight
    mended(certified)
    with pytest.raises(GluonexpError) as caught:
        verify.check(certified, pool=pool)
    message = str(caught.value)
    assert "the network is not the one that was certified on 20" in message
    assert "module differs, " in message and "symbolblock differs, " in message
    assert "all layers are computed right by module: its files hold another network" in message


def test_another_onnx_with_a_mended_digest_names_the_layer(certified, pool):
    path = certified / "model.onnx"
    weight = nd.load(str(certified / "model-0000.params"))["arg:net_dense0_weight"].asnumpy()
    flipped(path, path.read_bytes().index(weight.tobytes()) + 3)
    mended(certified)
    with pytest.raises(GluonexpError) as caught:
        verify.check(certified, pool=pool)
    assert "module differs" not in str(caught.value)
    assert "onnx differs, " in str(caught.value) and "openvino differs, " in str(caught.value)
    assert "the first layer output that differs is net_dense0_fwd_output" in str(caught.value)


@pytest.mark.parametrize("name", ["uint8-0000.params", "uint8.onnx"])
def test_another_network_behind_the_images_with_a_mended_digest(certified, pool, name):
    path = certified / name
    weight = nd.load(str(certified / "model-0000.params"))["arg:net_dense0_weight"].asnumpy()
    flipped(path, path.read_bytes().index(weight.tobytes()) + 3)
    mended(certified)
    with pytest.raises(GluonexpError, match="differs, logits within") as caught:
        verify.check(certified, pool=pool)
    told = str(caught.value)
    assert [each for each in (*RUNTIMES, *FOR_IMAGES) if f" {each} differs" in told] == [
        name.removesuffix("-0000.params")
    ]


@pytest.mark.parametrize("change", ["images", "labels", "logits"])
def test_other_samples_with_a_mended_digest(certified, pool, change):
    known = samples.read(certified)
    array = getattr(known, change)
    samples.write(certified, replace(known, **{change: np.roll(array, 1, axis=0)}))
    mended(certified)
    reason = "it records accuracy" if change == "labels" else "module differs"
    with pytest.raises(GluonexpError, match=reason):
        verify.check(certified, pool=pool)


def right(row, count):
    row.update(correct=count, accuracy=count / 40)


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda fields: right(fields["runtimes"]["onnx"], 40), "40 of 40 images .* by onnx"),
        (lambda fields: fields.update(accuracy=1.0), "it records accuracy 1, but"),
        (lambda fields: fields.update(images=4000), "it records 4000 images, but 40 are there"),
        (lambda fields: fields["tolerance"].update(logits=1.0), "it allows differences"),
        (lambda fields: fields["tolerance"].clear(), "it allows differences"),
        (lambda fields: fields.update(reference="the files themselves"), "the files themselves"),
        (lambda fields: fields["runtimes"]["onnx"].update(accuracy=1.0), "accuracy 1.0 is not"),
        (
            lambda fields: fields["runtimes"]["onnx"].update(expected_correct=40),
            "records 40 of 40",
        ),
        (lambda fields: fields["runtimes"]["onnx"].update(argmax_equal=1), "that onnx differs"),
        (lambda fields: fields["runtimes"]["onnx"].update(max_difference=1), "that onnx differs"),
        (lambda fields: fields["runtimes"].clear(), "does not say what module made"),
    ],
    ids=range(11),
)
def test_a_forged_claim_is_not_believed(certified, pool, forge, reason):
    edited(certified, forge, "certificate.json")
    with pytest.raises(GluonexpError, match=rf"certificate\.json.*{reason}"):
        verify.check(certified, pool=pool)


def test_what_it_does_not_know_is_noted(certified, pool):
    (certified / "mine.md").write_text("mine")
    edited(
        certified,
        lambda fields: fields["runtimes"].update(tensorrt=fields["runtimes"]["onnx"]),
        "certificate.json",
    )
    assert verify.check(certified, pool=pool).notes == (
        "tensorrt was certified, but cannot be tried: not installed here",
        "mine.md is not in the certificate: nothing is said of it",
    )


@pytest.mark.parametrize("name", ["model.onnx", "uint8.onnx", "uint8-0000.params"])
def test_a_file_that_is_taken_out_of_the_certificate(certified, pool, name):
    def forget(fields):
        del fields["files"][name]

    edited(certified, forget, "certificate.json")
    with pytest.raises(GluonexpError, match=f"does not vouch for {name}"):
        verify.check(certified, pool=pool)

    def forget_who_read_it(fields):
        for runtime in [*fields["runtimes"]]:
            if name in names.FILES[runtime]:
                del fields["runtimes"][runtime]

    edited(certified, forget_who_read_it, "certificate.json")
    with pytest.raises(GluonexpError, match=f"{name} was not certified, or taken out"):
        verify.check(certified, pool=pool)


def test_a_file_that_was_added(fresh, pool):
    (fresh / "model.onnx").unlink()
    (fresh / "uint8.onnx").unlink()
    found = verify.certify(fresh, pool=pool)
    assert [each.runtime for each in found.agreements] == ["module", "symbolblock", "uint8"]
    (fresh / "model.onnx").write_bytes(b"something else")
    with pytest.raises(GluonexpError, match=r"model\.onnx was not certified"):
        verify.check(fresh, pool=pool)


# A folder from somebody who means harm.


class Leaves:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model-0000.params", "not a file of MXNet's NDArrays"),
        ("samples.safetensors", "not a file of samples"),
        ("model-symbol.json", "not a symbol"),
        ("signature.json", "cannot be read"),
        ("model.onnx", "not an ONNX file"),
        ("certificate.json", "cannot be read|not JSON"),
    ],
)
def test_a_pickle_is_refused_and_does_nothing(certified, pool, tmp_path, name, reason):
    proof = tmp_path / "proof"
    (certified / name).write_bytes(pickle.dumps(Leaves(proof)))
    if name != "certificate.json":
        mended(certified)
    with pytest.raises(GluonexpError, match=reason):
        verify.check(certified, pool=pool)
    assert not proof.exists()


def test_mlflows_file_is_not_read(certified, pool, tmp_path):
    proof = tmp_path / "proof"
    (certified / "harmful.py").write_text(f"open({str(proof)!r}, 'w')\n_load_pyfunc = 1\n")
    (certified / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: harmful\n    code: .\n"
        f"x: !!python/object/apply:builtins.open [{str(proof)!r}, w]\n"
    )
    found = verify.check(certified, pool=pool)
    assert [note.split()[0] for note in found.notes] == ["MLmodel", "harmful.py"]
    assert not proof.exists()


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("_Native", {"info": "0x4141"}),
        ("_NDArray", {"info": "0x4141"}),
        ("Custom", {"op_type": "any"}),
        ("_cvimread", {"filename": "/etc/passwd"}),
    ],
)
def test_a_graph_that_calls_an_address_is_refused(certified, pool, operator, attributes):
    def change(fields):
        activation = next(node for node in fields["nodes"] if node["op"] == "Activation")
        activation.update(op=operator, attrs=attributes)

    edited(certified, change, "model-symbol.json")
    mended(certified)
    with pytest.raises(GluonexpError, match=f"its operator {operator} can run code"):
        verify.check(certified, pool=pool)


def test_weights_outside_of_the_folder_are_refused(certified, pool, tmp_path):
    import onnx as library

    model = library.load_model(str(certified / "model.onnx"))
    library.external_data_helper.set_external_data(model.graph.initializer[0], "../secret")
    model.graph.initializer[0].ClearField("raw_data")
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (certified / "model.onnx").write_bytes(model.SerializeToString())
    mended(certified)
    with pytest.raises(GluonexpError, match="in another file: refused"):
        verify.check(certified, pool=pool)


def test_a_link_to_the_outside_is_refused(certified, pool, tmp_path):
    shutil.move(certified / "model-0000.params", tmp_path / "secret")
    (certified / "model-0000.params").symlink_to(tmp_path / "secret")
    with pytest.raises(GluonexpError, match=r"model-0000\.params is a link that leaves"):
        verify.check(certified, pool=pool)


def test_an_input_of_any_size_is_not_made(certified, pool):
    def change(fields):
        fields["preprocess"].update(height=2**20, width=2**20)
        fields["input"]["shape"] = [None, 3, 2**20, 2**20]

    edited(certified, change)
    mended(certified)
    with pytest.raises(GluonexpError, match="its input is too large: refused"):
        verify.check(certified, pool=pool)
