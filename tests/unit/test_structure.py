"""Graphs that MXNet would crash on are found out before it sees them."""

import copy
import json

import pytest

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon, sym
from gluonexp.graph.graph import Graph
from gluonexp.model_folder import structure
from gluonexp.model_folder.network import read_symbol


def flaw(data):
    """Say what is wrong with JSON, as `read_symbol` finds it out."""
    try:
        return structure.flaw(Graph.from_json(json.dumps(data)))
    except ValueError as error:
        return str(error)


def _graph():
    x = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=4, name="conv")
    left, right = sym.split(sym.BatchNorm(x, name="bn"), num_outputs=2, name="split")
    x = sym.FullyConnected(sym.Flatten(left + right), num_hidden=4, name="fc")
    return json.loads(x.tojson())


def _node(graph, name):
    return next(node for node in graph["nodes"] if node["name"] == name)


@pytest.mark.parametrize("name", ["squeezenet1.1", "resnet18_v2", "densenet121", "inceptionv3"])
def test_real_networks_have_none(name):
    net = gluon.model_zoo.vision.get_model(name)
    assert flaw(json.loads(net(sym.var("data")).tojson())) is None


def test_results_beyond_the_first_are_counted():
    assert flaw(_graph()) is None
    for operator, count in (
        (sym.split(sym.var("x"), num_outputs=3), 3),
        (sym.BatchNorm(sym.var("x"), output_mean_var=True), 3),
        (sym.BatchNorm(sym.var("x")), 1),
        (sym.contrib.quantize_v2(sym.var("x")), 3),
        (sym.Dropout(sym.var("x")), 1),
    ):
        graph = json.loads(operator.tojson())
        node = graph["heads"][0][0]
        for result in range(count):
            assert flaw(graph | {"heads": [[node, result, 0]]}) is None
        assert "which it has not" in flaw(graph | {"heads": [[node, count, 0]]})


def _set(name, key, value):
    def change(graph):
        _node(graph, name)[key] = value

    return change


def _input(name, position, entry):
    def change(graph):
        _node(graph, name)["inputs"][position] = entry

    return change


def _top(key, value):
    def change(graph):
        graph[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_input("fc", 1, [3, 1, 0]), "result 1 of 'conv', which it has not"),
        (_input("fc", 0, [0, 4, 0]), "result 4 of 'data', which it has not"),
        (_input("bn", 3, [0, 2, 1]), "result 2 of 'data'"),
        (_input("conv", 0, [12, 0, 0]), "not before it"),
        (_input("conv", 0, [3, 0, 0]), "not before it"),  # itself
        (_input("conv", 0, [-1, 0, 0]), "not before it"),
        (_input("conv", 0, [99, 0, 0]), "not before it"),
        (_input("conv", 0, [True, 0, 0]), "not before it"),
        (_input("conv", 0, [0, 0, -1]), "version -1"),
        (_input("conv", 0, [0, False, 0]), "result False"),
        (_input("conv", 0, [0]), "not [node, result, version]"),
        (_input("conv", 0, "0"), "not [node, result, version]"),
        (_set("data", "inputs", [[0, 0, 0]]), "a variable with inputs"),
        (_set("conv", "name", 3), "no name"),
        (_set("conv", "op", None), "no name"),
        (_set("conv", "attrs", {"kernel": [3, 3]}), "attributes that are no texts"),
        (_set("conv", "attrs", {"kernel": "(3, 3)"}), "num_filter"),
        (_set("conv", "op", "no such"), "no such"),
        (_set("conv", "subgraphs", [_graph()]), "a graph inside"),
        (_set("conv", "subgraphs", [{"nodes": [], "heads": []}]), "no nodes or no heads"),
        (_set("conv", "inputs", [[0, 0, 0]]), "'conv' (Convolution) has 1 inputs, not 3"),
        (_set("bn", "inputs", [[3, 0, 0]] * 3), "'bn' (BatchNorm) has 3 inputs, not 5"),
        (_set("bn", "inputs", [[3, 0, 0]] * 6), "'bn' (BatchNorm) has 6 inputs, not 5"),
        (_top("heads", [[99, 0, 0]]), "the output refers to node 99"),
        (_top("heads", []), "no heads"),
        (_top("heads", 3), "no heads"),
        (_top("nodes", {}), "no nodes"),
    ],
)
def test_what_does_not_hold_together(change, said):
    graph = copy.deepcopy(_graph())
    change(graph)
    # An operator's own attributes are only looked at where its results must be counted.
    if said in ("num_filter", "no such"):
        _node(graph, "bn")["inputs"][0][1] = 1
    assert said in flaw(graph)


@pytest.mark.parametrize("graph", [None, 3, [], {}, {"nodes": []}, {"nodes": [3], "heads": [[0]]}])
def test_what_is_no_graph(graph):
    assert flaw(graph) is not None


def test_what_is_no_part_of_a_graph_does_not_reach_mxnet():
    """Its parser would follow these numbers."""
    graph = _graph()
    plain = Graph.from_json(json.dumps(graph)).to_json()
    _node(graph, "conv").update(control_deps=[99], backward_source_id=99)
    graph.update(arg_nodes=[99], node_row_ptr=[-1])
    assert flaw(graph) is None
    assert Graph.from_json(json.dumps(graph)).to_json() == plain


def test_statistics_may_be_left_out_as_before_version_0_9():
    graph = _graph()
    _node(graph, "bn")["inputs"] = _node(graph, "bn")["inputs"][:3]
    assert "has 3 inputs, not 5" in flaw(graph)
    graph["attrs"] = {"mxnet_version": ["int", 800]}
    assert flaw(graph) is None
    del graph["attrs"]
    assert flaw(graph) is None
    for version in (["int", True], ["str", 800], 800, ["int"], "x"):
        assert flaw(graph | {"attrs": {"mxnet_version": version}}) is not None


@pytest.mark.parametrize("place", ["attr", "param"])
@pytest.mark.parametrize(
    "key", ["lr_mult", "weight_lr_mult", "wd_mult", "ctx_group", "force_mirroring", "mirror_stage"]
)
def test_how_an_old_network_was_trained_is_passed_over(place, key):
    """MXNet wrote it among the attributes of an operator, and moves it away as it reads it."""
    graph = _graph()
    plain = Graph.from_json(json.dumps(graph))
    _node(graph, "fc")[place] = {key: "0.1"}
    _node(graph, "data")[place] = {key: "0.1"}
    assert flaw(graph) is None
    assert Graph.from_json(json.dumps(graph)) == plain
    _node(graph, "fc")[place] = {f"{key}x": "0.1"}  # what MXNet does not take either
    assert "in operator FullyConnected" in flaw(graph)


def test_an_operator_that_mxnet_lacks_is_said_to_be_missing(tmp_path):
    graph = _graph()
    _node(graph, "fc").update(op="ArcFaceMargin", attrs={})
    path = tmp_path / "net-symbol.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(GluonexpError, match=r"MXNet 1\.9\.1 has no operator ArcFaceMargin: "):
        read_symbol(path)
    _node(graph, "fc").update(op="_contrib_box_nms", attrs={})
    path.write_text(json.dumps(graph))
    with pytest.raises(GluonexpError, match="_contrib_box_nms can run code or harm memory"):
        read_symbol(path)


def test_they_are_not_loaded(tmp_path):
    graph = _graph()
    _input("fc", 1, [3, 1, 0])(graph)
    path = tmp_path / "net-symbol.json"
    path.write_text(json.dumps(graph))
    with pytest.raises(GluonexpError, match=r"net-symbol\.json: .*result 1 of 'conv'"):
        read_symbol(path)


def test_names_in_any_language_are_loaded(tmp_path):
    path = tmp_path / "net-symbol.json"
    sym.FullyConnected(sym.var("data"), num_hidden=3, name="größe").save(str(path))
    loaded = read_symbol(path)
    assert loaded.list_arguments() == ["data", "größe_weight", "größe_bias"]
    assert loaded.infer_shape(data=(1, 5))[1] == [(1, 3)]
