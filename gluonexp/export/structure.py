"""What a graph's JSON must be like before MXNet may see it.

MXNet believes what a symbol's JSON says of its own structure: where an input refers to a result
that its node does not have, memory is read that is not the graph's, and the process crashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gluonexp.mx import mx, sym


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
        if node["op"] == "null" and node["inputs"]:
            yield f"node {index} is a variable with inputs"
        for entry in node["inputs"]:
            yield from _dangling(graph, entry, index, f"node {index}", counted)
        if not all(_is_index(before, index) for before in node.get("control_deps", [])):
            yield f"node {index} waits for one that is not before it"
        for inner in node.get("subgraphs", []):
            yield from _problems(inner, counted)
    for entry in heads:
        yield from _dangling(graph, entry, len(nodes), "the output", counted)
    if not all(_is_index(number, len(nodes)) for number in graph.get("arg_nodes", [])):
        yield "an argument is no node"


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
