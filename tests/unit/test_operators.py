"""Which operators, and with which attributes, a symbol from anywhere may have."""

import ctypes
import json

import pytest

from gluonexp.base.mx import gluon, mx, sym
from gluonexp.graph.graph import Graph
from gluonexp.model_folder import operators, structure


def flaw(data):
    """Say what is wrong with JSON, as `read_symbol` finds it out."""
    try:
        return structure.flaw(Graph.from_json(json.dumps(data)))
    except ValueError as error:
        return str(error)


def node_of(data):
    """Return a node's JSON as the node of a graph, which its inputs are variables of."""
    variables = [{"op": "null", "name": f"v{at}", "inputs": []} for at in range(20)]
    whole = {"nodes": [*variables, data], "heads": [[20, 0, 0]]}
    return Graph.from_json(json.dumps(whole)).nodes[-1]


@pytest.fixture(autouse=True)
def names():
    """Name what is made here from 0 on, and leave other tests' names alone."""
    with mx.name.NameManager():
        yield


def known():
    from mxnet.operator import get_all_registered_operators

    return set(get_all_registered_operators())


def own_name(operator):
    """Return the name under which MXNet saves an operator."""
    texts = [ctypes.c_char_p() for _ in range(4)]
    lists = [ctypes.POINTER(ctypes.c_char_p)() for _ in range(3)]
    handle, count = mx.base.OpHandle(), ctypes.c_uint()
    library = mx.base._LIB
    mx.base.check_call(library.NNGetOpHandle(operator.encode(), ctypes.byref(handle)))
    given = [texts[0], texts[1], count, *lists, texts[2], texts[3]]
    mx.base.check_call(library.MXSymbolGetAtomicSymbolInfo(handle, *map(ctypes.byref, given)))
    return texts[0].value.decode()


def test_the_table_names_operators_that_mxnet_has():
    assert known() >= operators.SAFE
    assert {own_name(operator) for operator in operators.SAFE} <= operators.SAFE


def test_nothing_that_is_more_than_arithmetic_is_in_it():
    for part in ("backward", "Native", "NDArray", "Custom", "imread", "imdecode", "CachedOp"):
        assert not [operator for operator in operators.SAFE if part in operator]
    for part in ("random", "sample", "update", "scatter", "index_copy", "Sequence", "ROI", "dgl"):
        assert not [operator for operator in operators.SAFE if part in operator]


@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "densenet121", "inceptionv3", "mobilenet0.25", "mobilenetv2_0.25"),
        *("resnet18_v1", "resnet18_v2", "squeezenet1.0", "vgg11_bn"),
    ],
)
def test_the_zoo_is_made_of_these(name):
    net = gluon.model_zoo.vision.get_model(name)
    graph = json.loads(net(sym.var("data")).tojson())
    assert operators.unknown(Graph.from_json(json.dumps(graph))) == []
    assert flaw(graph) is None


def graph_of(symbol):
    return json.loads(symbol.tojson())


def data():
    return sym.var("data")


@pytest.mark.parametrize(
    ("symbol", "said"),
    [
        (lambda: sym.Convolution(data(), kernel=(3, 3), num_filter=2, num_group=0), "num_group=0"),
        (lambda: sym.Convolution(data(), kernel=(3, 3), num_filter=2, stride=(0, 1)), "stride="),
        (lambda: sym.Convolution(data(), kernel=(3, 3), num_filter=2, dilate=(0, 1)), "dilate="),
        (lambda: sym.Convolution(data(), kernel=(0, 3), num_filter=2), "kernel="),
        (lambda: sym.Pooling(data(), kernel=(2, 2), pad=(-1, 0)), "pad="),
        (lambda: sym.GroupNorm(data(), num_groups=0), "num_groups=0"),
        (lambda: sym.softmax(data(), sym.var("n"), use_length=True), "use_length=True"),
        (lambda: sym.UpSampling(data(), scale=2, sample_type="bilinear"), "sample_type=bilinear"),
        (lambda: sym.transpose(data(), axes=(1, 1, 2)), "not all the axes"),
        (lambda: sym.reshape(data(), shape=(-(2**31), -1)), "has shape="),
        (lambda: sym.reshape(data(), shape=(2**16, 2**16, -1)), "has shape="),
        (lambda: sym.transpose(data(), axes=(1, 2)), "not all the axes"),
        (lambda: sym.pad(data(), mode="reflect", pad_width=(0, 0, 0, 0, 1, 1)), "mode=reflect"),
        (lambda: sym.dot(data(), data(), forward_stype="csr"), "forward_stype=csr"),
        (lambda: sym.relu(sym.var("data", stype="row_sparse")), "__storage_type__=1"),
        (lambda: sym.zeros((2, 2), ctx="gpu(0)"), "ctx=gpu(0)"),
        (lambda: sym.depth_to_space(data(), block_size=1 << 25), "block_size="),
    ],
)
def test_attributes_that_mxnet_would_crash_on(symbol, said):
    graph = graph_of(symbol())
    assert operators.unknown(Graph.from_json(json.dumps(graph))) == []
    assert said in flaw(graph)


@pytest.mark.parametrize("indices", ["()", "[]"])
def test_a_split_into_nothing(indices):
    graph = graph_of(sym.split_v2(data(), 2))
    assert flaw(graph) is None
    graph["nodes"][1]["attrs"].update(indices=indices, sections="0")
    assert "splits into nothing" in flaw(graph)


@pytest.mark.parametrize("text", ["(3, 3)", "(3,3)", "[3, 3]", "(3L, 3L)", "( 3 , 3 )"])
def test_sizes_are_read_as_old_files_have_them(text):
    graph = graph_of(sym.Convolution(data(), kernel=(3, 3), num_filter=2))
    graph["nodes"][-1]["attrs"]["kernel"] = text
    assert flaw(graph) is None


@pytest.mark.parametrize(
    "text", ["3e0", "(0x3, 3)", "(99999999999, 3)", "x", "(3;3)", "3 3", "1" * 99]
)
def test_sizes_that_are_none(text):
    graph = graph_of(sym.Convolution(data(), kernel=(3, 3), num_filter=2))
    for key in ("attrs", "attr", "param"):  # each of them is read
        changed = json.loads(json.dumps(graph))
        changed["nodes"][-1].setdefault(key, {})["stride"] = text
        assert "which is no size" in flaw(changed)


@pytest.mark.parametrize("place", ["attr", "param"])
def test_attributes_in_another_place_are_looked_at(place):
    graph = graph_of(sym.transpose(data(), axes=(1, 0)))
    graph["nodes"][1][place] = {"axes": "(1, 1)"}
    assert "axes is given twice" in flaw(graph)
    del graph["nodes"][1]["attrs"]
    assert "not all the axes" in flaw(graph)
    graph["nodes"][1][place] = {"axes": "(1, 0)"}
    assert flaw(graph) is None


# oneDNN's operators, whose meaning is a graph inside them.


def fused():
    """Return a quantized convolution, batch norm, sum and relu, as MXNet writes them."""
    names = ("data", "weight", "gamma", "beta", "mean", "var", "sum")
    inner = [{"op": "null", "name": name, "inputs": []} for name in names]
    convolution = {"kernel": "(3, 3)", "num_filter": "4", "no_bias": "True"}
    inner += [
        {"op": "Convolution", "name": "c", "attrs": convolution, "inputs": [[0, 0, 0], [1, 0, 0]]},
        {
            "op": "BatchNorm",
            "name": "b",
            "attrs": {"axis": "1"},
            "inputs": [[7, 0, 0], *([at, 0, 0] for at in range(2, 6))],
        },
        {"op": "elemwise_add", "name": "s", "inputs": [[8, 0, 0], [6, 0, 0]]},
        {"op": "Activation", "name": "a", "attrs": {"act_type": "relu"}, "inputs": [[9, 0, 0]]},
    ]
    told = ("quantized", "with_bn", "with_sum", "with_postsum_act")
    return {
        "op": "_sg_mkldnn_conv",
        "name": "fused",
        "attrs": dict.fromkeys(told, "true"),
        "inputs": [[at, 0, 0] for at in range(11)],
        "subgraphs": [{"nodes": inner, "arg_nodes": [*range(7)], "heads": [[10, 0, 0]]}],
    }


def fully_connected():
    inner = [{"op": "null", "name": name, "inputs": []} for name in ("data", "weight", "bias")]
    inputs = [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    layer = {"op": "FullyConnected", "name": "f", "attrs": {"num_hidden": "4"}, "inputs": inputs}
    return {
        "op": "_sg_mkldnn_fully_connected",
        "name": "fused",
        "attrs": {"quantized": "True", "channel_wise_quantize": "True"},
        "inputs": [[at, 0, 0] for at in range(5)],
        "subgraphs": [{"nodes": [*inner, layer], "heads": [[3, 0, 0]]}],
    }


def test_what_the_quantized_export_writes():
    assert operators.flaw(node_of(fused())) is None
    assert operators.added_to(node_of(fused())) == 6
    assert operators.flaw(node_of(fully_connected())) is None


def test_activations_as_mxnet_1_5_names_them():
    node = fused()
    node["attrs"]["with_postsum_relu"] = node["attrs"].pop("with_postsum_act")
    assert operators.flaw(node_of(node)) is None
    node["attrs"]["with_relu"] = "true"
    assert "not the layers" in operators.flaw(node_of(node))
    for name in (
        "with_act",
        "with_eltwise",
        "with_postsum_act",
    ):  # MXNet takes the old name's value
        node = fused()
        node["attrs"] |= {"with_relu": "false", name: "true"}
        assert "says in two ways" in operators.flaw(node_of(node))


def at(*path, value):
    def change(node):
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def step(index, *path, value):
    return at("subgraphs", 0, "nodes", index, *path, value=value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at("attrs", "with_bn", value="false"), "not the layers"),
        (at("attrs", "with_act", value="1"), "not the layers"),
        (at("attrs", "with_sum", value="no"), "not the layers"),
        (at("subgraphs", 0, "heads", value=[[9, 0, 0]]), "not the layers"),
        (step(7, "op", value="Deconvolution"), "not the layers"),
        (step(9, "inputs", value=[[6, 0, 0], [6, 0, 0]]), "not the layers"),
        (step(10, "inputs", value=[[9, 0, 0], [6, 0, 0]]), "not the layers"),
        (step(8, "attrs", value={"axis": "3"}), "another axis"),
        (step(7, "attrs", "kernel", value="(3,)"), "other than two dimensions"),
        (step(7, "attrs", "layout", value="NHWC"), "another layout"),
        (at("inputs", value=[[0, 0, 0]] * 7), "has 7 inputs, not 11"),
        (at("inputs", value=[]), "has 0 inputs, not 11"),
    ],
)
def test_what_is_not_as_it_says(change, said):
    node = fused()
    change(node)
    assert said in operators.flaw(node_of(node))


@pytest.mark.parametrize("graphs", [None, [], [{}], [{}, {}], [{"nodes": [], "heads": []}]])
def test_without_a_graph_inside(graphs):
    node = fused() | {"subgraphs": graphs}
    graph = {"nodes": [node | {"inputs": []}], "heads": [[0, 0, 0]]}
    assert flaw(graph) is not None
    del node["subgraphs"]
    assert flaw(graph) is not None


def test_ranges_for_all_weights_are_not_read():
    node = fully_connected()
    del node["attrs"]["channel_wise_quantize"]
    assert "one range for all its weights" in operators.flaw(node_of(node))
