"""What a graph's JSON must be like before MXNet may see it.

MXNet believes what a symbol's JSON says of its own structure: where an input refers to a result
that its node does not have, memory is read that is not the graph's, and the process crashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gluonexp.base.mx import mx, sym
from gluonexp.model_folder import operators

_VERSION: Final = 10901  # as MXNet 1.9.1 writes it
_NORMS: Final = {"BatchNorm", "BatchNorm_v1"}


def flaw(graph: Any) -> str | None:
    """Say what is wrong with a graph's JSON, or with one inside its nodes; None if nothing is.

    Its operators must have been looked through already: MXNet is asked how many results they have.
    """
    try:
        for problem in _problems(graph, {}):
            return problem
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    except mx.MXNetError as error:
        return str(error).strip().splitlines()[-1]
    except RecursionError:
        return "graphs within graphs without end"
    return None


def _problems(graph: Any, counted: dict[str, int]) -> Iterator[str]:
    """Yield what is wrong; may raise what reading JSON of another kind raises."""
    nodes, heads = graph["nodes"], graph["heads"]
    if not isinstance(nodes, list) or not isinstance(heads, list) or not heads:
        yield "no nodes or no heads"
    for index, node in enumerate(nodes):
        for key in ("attrs", "attr", "param"):
            texts = node.get(key, {})
            if not all(isinstance(text, str) for pair in texts.items() for text in pair):
                yield f"node {index} has attributes that are no texts"
        if not isinstance(node["op"], str) or not isinstance(node["name"], str):
            yield f"node {index} has no name"
        if problem := operators.flaw(node):
            yield f"{node['name']!r} ({node['op']}) {problem}"
        if node["op"] == "null" and node["inputs"]:
            yield f"node {index} is a variable with inputs"
        for entry in node["inputs"]:
            yield from _dangling(graph, entry, index, f"node {index}", counted)
        if not all(_is_index(before, index) for before in node.get("control_deps", [])):
            yield f"node {index} waits for one that is not before it"
        for inner in node.get("subgraphs", []):
            yield from _problems(inner, counted)
        yield from _miscounted(graph, node, counted)
    for entry in heads:
        yield from _dangling(graph, entry, len(nodes), "the output", counted)
    if not all(_is_index(number, len(nodes)) for number in graph.get("arg_nodes", [])):
        yield "an argument is no node"


def _miscounted(
    graph: Mapping[str, Any], node: Mapping[str, Any], counted: dict[str, int]
) -> Iterator[str]:
    """Yield that a node has more or fewer inputs than its operator takes."""
    if node["op"] == "null" or node.get("subgraphs"):  # of those `operators` has counted them
        return
    given, takes = len(node["inputs"]), _inputs(node, counted)
    # Before 0.9, MXNet left the statistics out; it adds them when it reads such a file.
    if given != takes and not (given == takes - 2 and node["op"] in _NORMS and _is_old(graph)):
        yield f"{node['name']!r} ({node['op']}) has {given} inputs, not {takes}"


def _is_old(graph: Mapping[str, Any]) -> bool:
    kind, version = graph.get("attrs", {}).get("mxnet_version", ["int", 800])
    return kind == "int" and type(version) is int and version < 900


def _dangling(
    graph: Mapping[str, Any], entry: Any, end: int, who: str, counted: dict[str, int]
) -> Iterator[str]:
    """Yield what is wrong with a reference to a result of a node before `end`."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        yield f"{who} refers to {entry!r}, not [node, result, version]"
    source, result = entry[:2]
    if not _is_index(source, end):
        yield f"{who} refers to node {source!r}, which is not before it"
    if result != 0 or type(result) is not int:
        node = graph["nodes"][source]
        if not _is_index(result, _results(graph, node, counted)):
            yield f"{who} refers to result {result!r} of {node['name']!r}, which it has not"
    if len(entry) == 3 and not _is_index(entry[2], 1 << 31):
        yield f"{who} refers to version {entry[2]!r}"


def _is_index(number: Any, end: int) -> bool:
    return type(number) is int and 0 <= number < end


def _inputs(node: Mapping[str, Any], counted: dict[str, int]) -> int:
    """Return how many inputs a node takes, of which MXNet is asked with a graph of it alone."""
    alone = {key: value for key, value in node.items() if key != "control_deps"}
    alone |= {"name": "n", "inputs": []}
    # Of this version, or MXNet would add what it counts as left out.
    version = {"mxnet_version": ["int", _VERSION]}
    text = json.dumps(
        {"nodes": [alone], "arg_nodes": [], "heads": [[0, 0, 0]], "attrs": version},
        ensure_ascii=False,
    )
    if text not in counted:
        symbol = sym.load_json(text)
        symbol._compose(name="n")  # adds a variable for each input
        counted[text] = len(symbol.list_inputs())
    return counted[text]


def _results(graph: Mapping[str, Any], node: Mapping[str, Any], counted: dict[str, int]) -> int:
    """Return how many results a node has, of which MXNet is asked with a graph of it alone."""
    if node["op"] == "null":
        return 1
    inputs = len(node["inputs"])
    variables = [{"op": "null", "name": f"v{index}", "inputs": []} for index in range(inputs)]
    alone = {**node, "name": "n", "inputs": [[index, 0, 0] for index in range(inputs)]}
    alone.pop("control_deps", None)
    text = json.dumps(
        {
            "nodes": [*variables, alone],
            "arg_nodes": list(range(inputs)),
            "heads": [[inputs, 0, 0]],
            **({"attrs": graph["attrs"]} if "attrs" in graph else {}),
        },
        ensure_ascii=False,
    )
    if text not in counted:
        # Old graphs leave inputs out, which MXNet then adds as variables of their own.
        internals = sym.load_json(text).get_internals()
        variables_now = len(internals.list_inputs())
        counted[text] = len(internals.list_outputs()) - variables_now
    return counted[text]
