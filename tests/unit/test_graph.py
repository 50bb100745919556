"""The graph of a network, from MXNet and back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluonexp.base.mx import gluon, mx, nd, nn, sym
from gluonexp.graph import structure
from gluonexp.graph.graph import VARIABLE, Graph, Node, Output
from gluonexp.graph.rewrite import flattened, uniquely_named
from gluonexp.graph.symbols import block, to_symbol


class Twice(nn.HybridBlock):
    """A layer, its BatchNorm and a residual, all of it twice."""

    def __init__(self):
        super().__init__(prefix="twice_")
        with self.name_scope():
            self.dense = nn.Dense(4, in_units=4, activation="tanh")
            self.norm = nn.BatchNorm(in_channels=4)

    def hybrid_forward(self, F, x):
        for _ in range(2):
            left, right = F.split(self.norm(self.dense(x)), num_outputs=2, axis=1)
            x = F.concat(right, left, dim=1) + x
        return x


@pytest.fixture
def twice():
    """Return the network, initialized, and its symbol."""
    with mx.name.NameManager():
        net = Twice()
        symbol = net(sym.var("data"))
    net.initialize(mx.init.Uniform(0.5))
    return net, symbol


def values(net):
    return {name: parameter.data() for name, parameter in net.collect_params().items()}


def fields(symbol):
    return json.loads(symbol.tojson())


@pytest.mark.parametrize("name", ["alexnet", "resnet18_v2", "densenet121", "inceptionv3"])
def test_a_network_comes_back_as_it_was(name):
    symbol = gluon.model_zoo.vision.get_model(name)(sym.var("data"))
    graph = Graph.from_symbol(symbol)
    assert fields(to_symbol(graph)) == fields(symbol)
    assert Graph.from_json(graph.to_json()) == graph
    assert [graph.nodes[at].name for at in graph.variables] == symbol.list_inputs()


def test_layers_that_are_called_twice_have_one_name_and_two_places(twice):
    net, symbol = twice
    graph = Graph.from_symbol(symbol)
    norms = [at for at, node in enumerate(graph.nodes) if node.op == "BatchNorm"]
    assert len(norms) == 2 and len({graph.nodes[at].name for at in norms}) == 1
    first, second = (graph.nodes[at].inputs for at in norms)
    assert first[1:] == second[1:]  # the parameters are the same outputs, ...
    assert first[3].version < second[3].version  # which the first has written to
    assert fields(to_symbol(graph)) == fields(symbol)
    inputs = nd.array(np.random.default_rng(1).normal(size=(3, 4)))
    np.testing.assert_array_equal(
        block(graph, values(net))(inputs).asnumpy(), net(inputs).asnumpy()
    )


def test_a_prefix_computes_what_the_whole_does(twice):
    net, symbol = twice
    graph = Graph.from_symbol(symbol)
    inputs = nd.array(np.random.default_rng(1).normal(size=(3, 4)))
    everything = symbol.get_internals()
    for head in Graph.from_symbol(everything).heads:
        node = graph.nodes[head.node]
        part = graph.prefix(head)
        assert part.nodes[part.heads[0].node].name == node.name
        assert len(part.nodes) == len(graph.needed([head])) <= head.node + 1
        if node.op == VARIABLE:
            assert part == Graph((node,), (Output(0),), graph.attrs)
            continue
        expected = block(Graph(graph.nodes, (head,), graph.attrs), values(net))(inputs)
        np.testing.assert_array_equal(
            block(part, values(net))(inputs).asnumpy(), expected.asnumpy()
        )


def test_several_heads_keep_their_order(twice):
    _, symbol = twice
    graph = Graph.from_symbol(symbol)
    splits = [at for at, node in enumerate(graph.nodes) if node.op == "SliceChannel"]
    heads = [Output(splits[1], 1), Output(splits[0]), Output(splits[1], 1)]
    part = graph.prefix(*heads)
    assert [(part.nodes[head.node].op, head.index) for head in part.heads] == [
        *[("SliceChannel", 1), ("SliceChannel", 0), ("SliceChannel", 1)]
    ]
    assert part.prefix(*part.heads) == part
    assert len(to_symbol(part).list_outputs()) == 3


def test_a_block_keeps_the_types_of_its_parameters():
    """Eight bits are weights of another type than MXNet infers."""
    x = sym.FullyConnected(
        sym.cast(sym.var("data"), "float64"), sym.var("w"), num_hidden=2, no_bias=True
    )
    weights = nd.array(np.eye(2), dtype="float64")
    made = block(x, {"w": weights, "nobody reads it": nd.ones(1)})
    assert made(nd.array([[1, 2]])).asnumpy().tolist() == [[1.0, 2.0]]
    with pytest.raises(KeyError, match="w"):
        block(x, {})


def test_graphs_inside_nodes_are_walked():
    inner = Graph((Node(VARIABLE, "x"), Node("relu", "a", (Output(0),))), (Output(1),), {})
    fused = Node("_sg_mkldnn_conv", "fused", (Output(0),), {"with_act": "true"}, (inner,))
    graph = Graph((Node(VARIABLE, "data"), fused), (Output(1),))
    assert [node.name for node in graph.walk()] == ["data", "fused", "x", "a"]
    assert Graph.from_json(graph.to_json()) == graph


def test_graphs_within_graphs_end():
    graph = Graph((Node("relu", "a"),), (Output(0),))
    for _ in range(100):
        graph = Graph((Node("relu", "a", subgraphs=(graph,)),), (Output(0),))
    with pytest.raises(ValueError, match="without end"):
        Graph.from_json(graph.to_json())
    with pytest.raises(ValueError, match="nested too deeply"):
        Graph.from_json("[" * 100_000)


@st.composite
def graphs(draw):
    """Return a graph of any form; names repeat, and inputs of a node too."""
    nodes = []
    names = st.sampled_from(["a", "b", "größe", '"'])
    for at in range(draw(st.integers(1, 12))):
        outputs = (
            st.builds(Output, st.integers(0, at - 1), st.integers(0, 2)) if at else st.nothing()
        )
        inputs = draw(st.lists(outputs, max_size=3)) if at else []
        op = draw(st.sampled_from(["add", "split"])) if inputs else VARIABLE
        attrs = draw(st.dictionaries(names, st.text(max_size=3), max_size=2))
        nodes.append(Node(op, draw(names), tuple(inputs), attrs))
    heads = st.lists(st.builds(Output, st.integers(0, len(nodes) - 1)), min_size=1, max_size=3)
    return Graph(tuple(nodes), tuple(draw(heads)))


def unfolded(graph, output):
    """Return what an output is computed by, without positions."""
    node = graph.nodes[output.node]
    sources = [unfolded(graph, source) for source in node.inputs]
    return [node.op, node.name, node.attrs, output.index, sources]


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_what_holds_of_every_graph(graph):
    assert Graph.from_json(graph.to_json()) == graph
    part = graph.prefix(*graph.heads)
    assert Graph.from_json(part.to_json()) == part  # each node still stands after its inputs
    assert part.needed(part.heads) == set(range(len(part.nodes)))
    for before, after in zip(graph.heads, part.heads, strict=True):
        assert unfolded(part, after) == unfolded(graph, before)
    renamed = uniquely_named(graph)
    assert renamed == uniquely_named(renamed)
    operators = [node.name for node in renamed.nodes if node.op != VARIABLE]
    variables = [node.name for node in graph.nodes if node.op == VARIABLE]
    assert [node.name for node in renamed.nodes if node.op == VARIABLE] == variables
    assert len({*operators, *variables}) == len(operators) + len({*variables})
    assert len({*graph.names}) == len(graph.nodes)
    assert flattened(graph, [[4] * 3] * len(graph.nodes)) == graph  # no dense layer


def test_structural_names_are_noted_and_travel_with_the_graph(twice):
    net, symbol = twice
    graph = structure.noted(Graph.from_symbol(symbol), net)
    found = structure.structural_names(Graph.from_symbol(to_symbol(graph)))
    assert found["twice_dense0_weight"] == "dense.weight"
    assert found["twice_batchnorm0_running_var"] == "norm.running_var"
    assert {*found} == {*net.collect_params()}
    x = nd.array(np.random.default_rng(0).normal(size=(2, 4)))
    values = {name: p.data() for name, p in net.collect_params().items()}
    np.testing.assert_array_equal(block(graph, values)(x).asnumpy(), net(x).asnumpy())


def test_a_structural_name_that_two_variables_have_is_none():
    nodes = [Node(VARIABLE, name, attrs={"__structure__": "a.weight"}) for name in "ab"]
    nodes.append(Node(VARIABLE, "c", attrs={"__structure__": "c.weight"}))
    graph = Graph((*nodes, Node("add_n", "sum", (Output(0), Output(1), Output(2)))), (Output(3),))
    assert structure.structural_names(graph) == {"c": "c.weight"}
