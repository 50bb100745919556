"""PyTorch's files, read without it: bit for bit, in every form; hostile ones run nothing."""

import contextlib
import copyreg
import io
import os
import pickle
import pickletools
import struct
import subprocess
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gluonexp.base.errors import GluonexpError
from gluonexp.weights import pth, unpickle

VALUES = np.arange(12, dtype=np.float32) / 7  # the data of the files written here


# A writer of both formats, opcode by opcode; what PyTorch itself writes comes further down.


def name(dotted):
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def integers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(size=12, key="0", kind="torch.FloatStorage", last=b""):
    return (
        b"("
        + text("storage")
        + name(kind)
        + text(key)
        + text("cpu")
        + integer(size)
        + last
        + b"tQ"
    )


NO_HOOKS = name("collections.OrderedDict") + b")R"


def tensor(offset=0, shape=(3, 4), strides=(4, 1), data=None):
    view = integer(offset) + integers(shape) + integers(strides)
    return name("torch._utils._rebuild_tensor_v2") + (
        b"(" + (data or storage()) + view + b"\x89" + NO_HOOKS + b"tR"
    )


def program(*items):
    """Write the pickle of a dictionary: names and pickled values in turn."""
    pairs = zip(items[::2], items[1::2], strict=True)
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in pairs) + b"u."


def archived(pickled, data=None, byteorder=None, compression=zipfile.ZIP_STORED):
    """Write a file as PyTorch has done since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        if byteorder:
            archive.writestr("archive/byteorder", byteorder)
        for key, raw in (data or {"0": VALUES.tobytes()}).items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


MAGIC, PROTOCOL, SYSTEM = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}


def listed(pickled, data=None, count=None, keys=None):
    """Write a file as PyTorch did before 1.6."""
    data = {"0": VALUES.tobytes()} if data is None else data
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, SYSTEM))
    head += pickled + pickle.dumps(list(data) if keys is None else keys, 2)
    for raw in data.values():
        head += struct.pack("<q", len(raw) // 4 if count is None else count) + raw
    return head


WRITERS = [archived, listed]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Read a content as if it were a file."""
    folder = tmp_path_factory.mktemp("files")

    def read_content(content, suffix=".pth"):
        path = folder / f"file{suffix}"
        path.write_bytes(content)
        return pth.read(path)

    return read_content


def refused(read, content, reason=None, suffix=".pth"):
    with pytest.raises(GluonexpError, match=reason) as caught:
        read(content, suffix)
    assert f"file{suffix} is not a valid file of tensors: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# What PyTorch writes


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def state_dict(torch):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    state = OrderedDict(
        weight=base,
        rows=base[1:3],
        column=base[:, 2],
        transposed=base.t(),
        expanded=base[:, :1].expand(4, 6),
        parameter=torch.nn.Parameter(torch.randn(3, generator=generator)),
        frozen=torch.nn.Parameter(torch.randn(2, generator=generator), requires_grad=False),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        double=torch.randn(3, dtype=torch.float64, generator=generator),
        half=torch.randn(3, generator=generator).half(),
        brain=torch.randn(5, generator=generator).bfloat16(),
        long=torch.tensor([2**40, -1]),
        int=torch.tensor([-3], dtype=torch.int32),
        short=torch.tensor([-3], dtype=torch.int16),
        char=torch.tensor([-3], dtype=torch.int8),
        byte=torch.tensor([255], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
    )
    state["not-a-number"] = torch.tensor([float("nan"), float("-inf"), -0.0])
    return state


def assert_equal(arrays, state, torch):
    assert list(arrays) == list(state)
    for key, tensor in state.items():
        tensor = tensor.detach()
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert arrays[key].dtype == expected.dtype
        assert arrays[key].shape == expected.shape
        assert arrays[key].tobytes() == expected.tobytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read_bit_for_bit(tmp_path, torch, zipped, protocol):
    state = state_dict(torch)
    path = tmp_path / "model.pth"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_equal(pth.read(path), state, torch)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_a_module_and_a_training_checkpoint_are_read(tmp_path, torch, zipped, key):
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    state = net.state_dict()
    buffers = {n: {"momentum_buffer": torch.ones(n), "step": n} for n in range(3)}
    optimizer = {"state": buffers, "param_groups": [{"lr": 0.1, "betas": (0.9, 1), "params": [0]}]}
    content = state if key is None else {
        "epoch": 3, "loss": 0.5, key: state, "optimizer": optimizer, "notes": None
    }  # fmt: skip
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_equal(pth.read(path), state, torch)


@pytest.mark.parametrize("path", ["net", "generator", "checkpoint/model", "a/b"])
def test_a_state_dict_is_found_in_what_holds_it(read, path):
    held = program("w", tensor())[2:-1]
    for key in reversed(path.split("/")):
        held = program(key, held, "epoch", integer(3))[2:-1]
    arrays = read(archived(b"\x80\x02" + held + b"."))
    np.testing.assert_array_equal(arrays["w"], VALUES.reshape(3, 4))


def test_of_several_state_dicts_the_networks_own_is_taken(read):
    one, other = (program(key, tensor())[2:-1] for key in ("w", "other"))
    assert list(read(archived(program("ema", other, "net", one)))) == ["w"]
    counted = program("net", one, "epoch", tensor(0, (1,), (1,)))
    assert list(read(archived(counted))) == ["w"]
    refused(read, archived(program("g", one, "d", other)), "several state dicts: 'g', 'd'")
    nested = [program("net", held)[2:-1] for held in (one, other)]
    refused(read, archived(program("g", nested[0], "d", nested[1])), "several state dicts: 'net'")


def test_a_pointer_of_git_lfs_is_called_one(read):
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(GluonexpError, match=rf"file\{suffix} is a git-LFS pointer, not the"):
            read(content, suffix)


def test_tied_tensors_share_their_memory(tmp_path, torch):
    base = torch.randn(1000)
    torch.save({f"{n}": base for n in range(1000)}, tmp_path / "tied.pth")
    arrays = pth.read(tmp_path / "tied.pth")
    assert len(arrays) == 1000
    assert all(np.shares_memory(arrays["0"], array) for array in arrays.values())


def test_a_view_larger_than_its_storage_is_refused(tmp_path, torch, read):
    file = io.BytesIO()
    torch.save({"w": torch.zeros(1).expand(10**12)}, file)
    refused(read, file.getvalue(), "reaches beyond its storage")


def test_a_whole_module_is_refused_by_name(tmp_path, torch, read):
    for zipped in (True, False):
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older format: there is no source to keep
            torch.save(torch.nn.Linear(2, 2), file, _use_new_zipfile_serialization=zipped)
        refused(read, file.getvalue(), r"names 'torch\.nn\.modules\.linear\.Linear'.*state_dict")


def test_safetensors_are_read_bit_for_bit(tmp_path, torch):
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = {key: tensor.detach().clone() for key, tensor in state_dict(torch).items()}
    del state["expanded"]
    state["transposed"] = state["transposed"].contiguous()
    save_file(state, tmp_path / "model.safetensors", metadata={"title": "Random"})
    arrays = pth.read(tmp_path / "model.safetensors")
    assert_equal({key: arrays[key] for key in state}, state, torch)  # they are sorted in the file
    assert pth.metadata(tmp_path / "model.safetensors") == {"title": "Random"}


# What it writes no more, or on other machines


@pytest.mark.parametrize("write", WRITERS)
def test_the_writers_here_write_what_is_read(read, write):
    arrays = read(write(program("w", tensor(), "part", tensor(5, (2, 2), (1, 3)))))
    np.testing.assert_array_equal(arrays["w"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(arrays["part"], VALUES[[[5, 8], [6, 9]]])
    assert all(array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("write", WRITERS)
def test_the_calls_of_old_versions_are_known(read, write):
    """Those of torchvision's vgg16, and of Python 2."""
    view = integer(0) + b"(" + integer(3) + integer(4) + b"t" + integers((4, 1))
    size = name("torch.Size") + b"(" + integers((3, 4)) + b"tR"
    first = name("torch._utils._rebuild_tensor") + b"(" + storage() + view + b"tR"
    sized = (
        name("torch._utils._rebuild_tensor")
        + b"(" + storage() + integer(0) + size + integers((4, 1)) + b"tR"
    )  # fmt: skip
    parameter = (
        name("torch.nn.parameter.Parameter") + b"(" + first + b"t\x81"
        b"(\x88\x89" + NO_HOOKS + b"tb"
    )  # fmt: skip
    # An OrderedDict of Python 2 is called with a list of lists, and its strings are bytes.
    pairs = b"".join(
        b"]U" + bytes([len(key)]) + key + b"a" + value + b"a"
        for key, value in ((b"a", first), (b"b", sized), (b"c", parameter))
    )
    pickled = (
        b"\x80\x02" + name("collections.OrderedDict")
        + b"(](" + pairs.replace(b"]U", b"]U") + b"etR."
    )  # fmt: skip
    arrays = read(write(pickled))
    assert list(arrays) == ["a", "b", "c"]
    for array in arrays.values():
        np.testing.assert_array_equal(array, VALUES.reshape(3, 4))


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Float", "f4"), ("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Short", "i2")],
)
def test_the_byte_order_of_the_file_is_heeded(read, order, kind, dtype):
    stored = np.array([1, -2, 300]).astype(np.dtype(dtype).newbyteorder(order[0]))
    data = storage(3, kind=f"torch.{kind}Storage")
    pickled = program("w", tensor(0, (3,), (1,), data))
    array = read(archived(pickled, {"0": stored.tobytes()}, order))["w"]
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == [1, -2, 300]


def test_bfloat16_of_another_byte_order(read):
    pickled = program("w", tensor(0, (2,), (1,), storage(2, kind="torch.BFloat16Storage")))
    array = read(archived(pickled, {"0": b"\x3f\x80\xc0\x40"}, "big"))["w"]
    assert (array.dtype, array.tolist()) == (np.float32, [1.0, -3.0])


# Sizes


SIZES = {
    "offset": tensor(1),
    "far offset": tensor(2**62),
    "shape": tensor(0, (4, 4), (4, 1)),
    "strides": tensor(0, (3, 4), (5, 1)),
    "no strides": tensor(0, (3, 4), (1,)),
    "negative": tensor(0, (3, 4), (-4, 1)),
    "negative offset": tensor(-1),
    "negative shape": tensor(0, (-3, -4), (4, 1)),
    "expanded": tensor(0, (2**40, 2**40), (0, 0)),
    "product that overflows to 0": tensor(0, (2**32, 2**32), (0, 0)),
    "beyond 64 bits": tensor(0, (2**64,), (1,)),
    "many dimensions": tensor(0, (1,) * 33, (1,) * 33),
    "empty but huge": tensor(0, (0, 2**62, 2**62), (1, 1, 1)),
    "shape of strings": tensor().replace(integer(3), text("3")),
    "shape of booleans": tensor().replace(integer(3), b"\x88"),
    "negative storage": tensor(data=storage(-12)),
    "larger storage": tensor(data=storage(13)),
    "smaller storage": tensor(0, (2,), (1,), storage(11)),
    "huge storage": tensor(0, (2**61,), (1,), storage(2**61)),
    "other type": tensor(data=storage(kind="torch.DoubleStorage")),
    "view of a storage": tensor(data=storage(last=b"(" + text("1") + integers((0, 12)) + b"tt")),
    "no such storage": tensor(data=storage(key="7")),
    "path as key": tensor(data=storage(key="../data.pkl")),
    "unknown type": tensor(data=storage(kind="torch.Size")),
    "no tensor": integer(3),
    "storage itself": storage(),
    "name itself": name("torch.FloatStorage"),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("wrong", SIZES)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_allocated(read, write, wrong):
    content = write(program("w", SIZES[wrong]))
    tracemalloc.start()
    try:
        refused(read, content)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("write", WRITERS)
def test_one_storage_of_two_sizes_is_refused(read, write):
    both = program("a", tensor(), "b", tensor(0, (2,), (1,), storage(2)))
    refused(read, write(both), "two sizes or types")


@pytest.mark.parametrize("content", [b"\x80\x02].", b"\x80\x02}.", b"\x80\x02N."])
@pytest.mark.parametrize("write", WRITERS)
def test_what_is_no_state_dict_is_refused(read, write, content):
    refused(read, write(content, {}) if write is listed else write(content), "no state dict")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"count": 11}, "cut short, or damaged"),
        ({"count": -1}, "cut short, or damaged"),
        ({"count": 2**62}, "cut short, or damaged"),
        ({"keys": ["0", "0"]}, "other data"),
        ({"keys": [0]}, "other data"),
        ({"keys": []}, "other data"),
        ({"keys": "0"}, "other data"),
        ({"keys": [[["0"]]]}, "other data"),
    ],
)
def test_a_list_of_data_that_does_not_fit_is_refused(read, arguments, reason):
    refused(read, listed(program("w", tensor()), **arguments), reason)


def test_archives_that_unfold_are_refused(read):
    zeros = {"0": bytes(50_000_000)}
    data = storage(len(zeros["0"]) // 4)
    pickled = program("w", tensor(0, (2,), (1,), data))
    content = archived(pickled, zeros, compression=zipfile.ZIP_DEFLATED)
    assert len(content) < 100_000
    refused(read, content, "compressed, or overlap")


def test_archives_whose_records_overlap_are_refused(read, monkeypatch):
    """Many entries in the table of contents, all for the same data."""

    class Repeating(zipfile.ZipFile):
        def _write_end_record(self):
            first = self.getinfo("archive/data/0")
            self.filelist += [first] * 100
            super()._write_end_record()

    monkeypatch.setattr(zipfile, "ZipFile", Repeating)
    data = {"0": bytes(100_000)}
    content = archived(program("w", tensor(data=storage(25_000))), data)
    monkeypatch.undo()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.infolist()) == 103
    refused(read, content, "compressed, or overlap")


@pytest.mark.parametrize("write", WRITERS)
def test_a_huge_pickle_is_refused(read, write):
    refused(read, write(program("w", tensor(), "long", text("x" * (1 << 20)))))


def test_other_archives_are_refused(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    refused(read, file.getvalue(), "not PyTorch's")
    refused(read, archived(program("w", tensor()), byteorder="middle"), "unknown byte order")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(read, content):
    refused(read, content, "does not begin like a file of PyTorch")


def test_other_pickles_are_refused(read):
    refused(read, pickle.dumps([1, 2]) + pickle.dumps(1001), "a pickle, but not PyTorch's")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(GluonexpError, match=f"{path} cannot be read"):
            pth.read(path)
    with pytest.raises(GluonexpError, match=r"none\.safetensors cannot be read"):
        pth.metadata(tmp_path / "none.safetensors")


# Hostile pickles


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def stack_global(module, attribute):
    return text(module) + text(attribute) + b"\x93"


EXTENSION = 0x6E657470  # a code of the extension registry


def payloads(marker):
    """Return hostile pickles: every one that `pickle.loads` would obey makes the file `marker`."""
    command, statement = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    line = f"S{command!r}\n".encode()
    system = name(f"{os.system.__module__}.system")
    live = {
        f"os.system, protocol {n}": pickle.dumps(Call(os.system, command), n) for n in range(6)
    } | {
        "eval": pickle.dumps(Call(eval, statement), 2),
        "exec": pickle.dumps(Call(exec, statement), 4),
        "Popen": pickle.dumps(Call(subprocess.call, ["touch", str(marker)]), 2),
        "getattr": b"\x80\x02" + name("builtins.getattr") + b"(cos\npath\n" + text("os") + b"tR0"
        + name("builtins.getattr") + b"(" + name("builtins.__import__") + b"(" + text("os")
        + b"tR" + text("system") + b"tR(" + text(command) + b"tR.",
        "STACK_GLOBAL": b"\x80\x04" + stack_global("os", "system") + b"(" + text(command) + b"tR.",
        "STACK_GLOBAL of a path": b"\x80\x04" + stack_global("collections", "_sys.modules")
        + b"0" + stack_global("os", "system") + b"(" + text(command) + b"tR.",
        "memo": b"\x80\x02" + system + b"q\x000" + text(command) + b"q\x010h\x00(h\x01tR.",
        "memo of an admitted name": b"\x80\x02" + name("collections.OrderedDict") + b"q\x000"
        + system + b"q\x000h\x00(" + text(command) + b"tR.",
        "INST": b"(" + line + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(" + system + text(command) + b"o.",
        "EXT4": b"\x80\x02\x84" + struct.pack("<I", EXTENSION) + b"(" + text(command) + b"tR.",
        "NEWOBJ": b"\x80\x02" + name("subprocess.Popen") + b")\x81}" + text("args") + b"Ns0"
        + system + b"(" + text(command) + b"tR.",
        "in an argument": b"\x80\x02" + name("collections.OrderedDict") + b"(](" + system + b"("
        + text(command) + b"tR" + text("x") + b"eatR.",
        "in a state": b"\x80\x02" + NO_HOOKS + system + b"(" + text(command) + b"tR}b.",
        "BUILD of a method": b"\x80\x02" + name("collections.OrderedDict") + b")R}"
        + text("__setstate__") + system + b"sb" + text(command) + b"b.",
    }  # fmt: skip
    dead = {  # of no effect in the standard unpickler either, or only with PyTorch
        "torch.load": b"\x80\x02" + name("torch.load") + b"(" + text(str(marker)) + b"tR.",
        "torch.hub": b"\x80\x02" + name("torch.hub.load") + b"(" + text(str(marker)) + b"tR.",
        "under torch": b"\x80\x04" + stack_global("torch", "os.system") + b"(" + text(command)
        + b"tR.",
        "BUILD of a name": b"\x80\x02" + name("collections.OrderedDict") + b"}"
        + text("__setstate__") + NO_HOOKS + b"sb.",
        "BUILD of a dict": b"\x80\x02}}" + text("__class__") + text("os") + b"sb.",
        "REDUCE of a string": b"\x80\x02" + text("os.system") + b"(" + text(command) + b"tR.",
        "REDUCE of a result": b"\x80\x02" + NO_HOOKS + b"(" + text(command) + b"tR.",
        "REDUCE of a storage class": b"\x80\x02" + name("torch.FloatStorage") + b"("
        + text(command) + b"tR.",
        "NEWOBJ_EX": b"\x80\x04" + name("torch.nn.parameter.Parameter") + b")}\x92.",
        "parameter of a string": b"\x80\x02" + name("torch.nn.parameter.Parameter") + b"("
        + text(command) + b"tR.",
        "tensor of a string": b"\x80\x02" + name("torch._utils._rebuild_tensor_v2") + b"("
        + text(command) * 6 + b"tR.",
        "APPENDS to a tensor": b"\x80\x02" + tensor() + b"(" + text(command) + b"e.",
        "SETITEMS of a list": b"\x80\x02](" + text("__class__") + text(command) + b"u.",
        "ADDITEMS": b"\x80\x04\x8f(" + text(command) + b"\x90.",
        "PERSID": b"P" + command.encode() + b"\n.",
        "persistent string": b"\x80\x02" + text(command) + b"Q.",
        "persistent module": b"\x80\x02(" + text("module") + name("torch.Size") + text("a")
        + text(command) + b"tQ.",
        "buffers": b"\x80\x05\x97\x98.",
    }  # fmt: skip
    return live, dead


LIVE, DEAD = (list(named) for named in payloads("marker"))


@pytest.fixture
def extension(monkeypatch):
    """Register os.system under an extension code, and leave it in the unpickler's cache."""
    copyreg.add_extension(os.system.__module__, "system", EXTENSION)
    monkeypatch.setitem(copyreg._extension_cache, EXTENSION, os.system)
    yield
    copyreg.remove_extension(os.system.__module__, "system", EXTENSION)


@pytest.mark.parametrize("payload", LIVE + DEAD)
def test_a_hostile_pickle_runs_nothing(tmp_path, read, extension, payload):
    marker = tmp_path / "marker"
    live, dead = payloads(marker)
    pickled = (live | dead)[payload]
    if payload in live:  # it would work
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(
                pickle.UnpicklingError, AttributeError, TypeError, ValueError
            ):
                pickle.loads(pickled)
        assert marker.exists()
        marker.unlink()
    parts = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, SYSTEM)]
    parts += [program("w", tensor()), pickle.dumps(["0"], 2)]
    hostile = [archived(pickled), listed(pickled)]
    hostile += [b"".join([*parts[:n], pickled, *parts[n:]]) for n in range(5)]
    hostile += [archived(program("w", tensor(), "evil", pickled.removeprefix(b"\x80\x02")[:-1]))]
    for content in hostile:
        refused(read, content)
    assert not marker.exists()
    assert not os.path.exists("marker")


def test_a_refused_name_is_told(read):
    refused(
        read, archived(pickle.dumps(Call(os.system, "true"), 2)), r"names '(posix|nt)\.system'"
    )
    refused(read, archived(b"\x80\x04" + stack_global("a\n" * 99, "b") + b"."), r"names 'a\\na")


DEEP = {
    "nested": b"\x80\x02)" + b"\x85" * 300_000 + b".",  # a tuple in a tuple in a tuple
    "lists": b"\x80\x02" + b"](" * 150_000 + b"e" * 150_000 + b".",
    "hash": b"\x80\x02}()" + b"\x85" * 300_000 + b"Nu.",  # as a key
    "wide hash": b"\x80\x02}()" + b"q\x00h\x00\x86" * 100 + b"Nu.",  # 2 ** 100 items
    "name": b"\x80\x04)" + b"\x85" * 300_000 + text("a") + b"\x93.",
    "identity": b"\x80\x04)" + b"\x85" * 300_000 + b"Q.",
    "marks": b"\x80\x02" + b"(" * 300_000 + b".",
}
LARGE = {
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",  # its four thousand millionth place
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "integer": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    # The same two thousand pairs in each of five thousand dictionaries.
    "pairs": b"\x80\x02" + name("collections.OrderedDict") + b"q\x00]("
    + b"".join(b"](" + text(f"{n}") + b"Ne" for n in range(2000))
    + b"eq\x01(" + b"h\x00(h\x01tR" * 5000 + b"t.",
}  # fmt: skip


@pytest.mark.parametrize("pickled", DEEP.values(), ids=DEEP)
def test_a_pickle_cannot_exhaust_the_stack(read, pickled):
    refused(read, archived(pickled))


@pytest.mark.parametrize("pickled", LARGE.values(), ids=LARGE)
def test_a_pickle_cannot_exhaust_the_memory(read, pickled):
    content = archived(pickled)
    tracemalloc.start()
    try:
        refused(read, content)
        assert tracemalloc.get_traced_memory()[1] < 50e6  # bytes
    finally:
        tracemalloc.stop()


ADMITTED = name("torch.nn.parameter.Parameter")
LONG_KEY = storage(key="k" * 400_000)[:-1]
SLOW = {  # what is long is looked at anew every time
    "arguments": b"\x80\x02" + ADMITTED + b"q\x00(" + tensor() + b"N" * 100_000 + b"tq\x01"
    + b"h\x00h\x01R" * 100_000 + b".",
    "key": b"\x80\x02" + LONG_KEY + b"Q" + LONG_KEY + b"q\x01" + b"h\x01Q" * 70_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("pickled", SLOW.values(), ids=SLOW)
def test_a_pickle_cannot_take_quadratic_time(read, pickled):
    began = time.process_time()
    refused(read, archived(pickled))
    assert time.process_time() - began < 1


# Damage


PICKLED = program("layer.weight", tensor(), "layer.bias", tensor(3, (4,), (2,)))
SOUND = {
    "zip": (archived(PICKLED, byteorder="little"), ".pth"),
    "list": (listed(PICKLED), ".pth"),
    "safetensors": (
        save({"a": VALUES.reshape(3, 4)}),
        ".safetensors",
    ),
}


@pytest.mark.parametrize("form", SOUND)
def test_a_truncated_file_is_refused(read, form):
    content, suffix = SOUND[form]
    read(content, suffix)
    for length in range(len(content)):
        refused(read, content[:length], suffix=suffix)


@pytest.mark.parametrize("form", SOUND)
@settings(max_examples=100)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1))
def test_flipped_bits_give_a_message_or_arrays_of_what_is_there(read, form, flips):
    content, suffix = SOUND[form]
    sound = read(content, suffix)
    damaged = bytearray(content)
    for place, bit in flips:
        damaged[int(place * len(content))] ^= 1 << bit
    try:
        arrays = read(bytes(damaged), suffix)
    except GluonexpError:
        return
    # Only the zip archive has check sums.
    if form == "zip":
        assert {key: array.tolist() for key, array in arrays.items()} == {
            key: array.tolist() for key, array in sound.items()
        }
    assert sum(array.nbytes for array in arrays.values()) < len(content)


@pytest.mark.fuzz
@pytest.mark.parametrize("form", SOUND)
def test_any_damage_is_read_or_refused(fuzz, form):
    content, suffix = SOUND[form]
    contents = fuzz.damaged(content)
    if form == "zip":  # it has check sums: what is damaged before it is packed is read further
        contents |= fuzz.damaged(PICKLED).map(archived)
    fuzz(pth.read, contents, f"some{suffix}")


@pytest.mark.fuzz
def test_any_damage_is_described_or_refused(fuzz):
    fuzz(pth.metadata, fuzz.damaged(SOUND["safetensors"][0]), "some.safetensors")


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@settings(max_examples=300)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from(OPCODES),
            st.sampled_from([tensor(), storage(), NO_HOOKS, b"(", b"t", b"q\x00", b"h\x00", b"}"]),
            st.sampled_from([name(admitted) for admitted in sorted(unpickle._ADMITTED)]),
            st.integers(-3, 300).map(integer),
            st.text(max_size=3).map(text),
            st.binary(max_size=4),
        ),
        max_size=40,
    )
)
def test_any_program_gives_a_value_or_one_kind_of_error(parts):
    try:
        unpickle.load(io.BytesIO(b"\x80\x02" + b"".join(parts) + b"."))
    except ValueError as error:
        assert str(error)
