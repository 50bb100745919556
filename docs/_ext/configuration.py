"""The page of every configuration key, from the schema, the files of ``conf/`` and constructors.

A key's type and range come from its dataclass, or from the signature of the constructor that its
file names; its default from what Hydra composes; its meaning from the comment beside it in the
file, the list at the file's head, the comment in the schema, or the constructor's docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import yaml
from numpydoc.docscrape import ClassDoc, FunctionDoc
from omegaconf import DictConfig, ListConfig, OmegaConf

from gluonexp import run
from gluonexp.config import schema

CONF = Path(run.conf_dir())
# Groups whose files are laid over the whole configuration: they have no keys of their own.
WHOLE = ("experiment", "sweep")
_ITEMS = {"freeze.rules": schema.FreezeRule, "freeze.unfreeze": schema.Unfreeze}
_WIDTH = 4  # of the indentation of a list at a file's head: `#   key  meaning`


@dataclass
class Key:
    """One key, as the page shows it."""

    name: str
    kind: str = ""
    range: str = ""
    # By the choice of its group ("" outside of groups).
    defaults: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)


def choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def groups() -> list[str]:
    """Return the groups in the order of ``conf/config.yaml``, Hydra's own last."""
    listed = yaml.safe_load((CONF / "config.yaml").read_text("utf-8"))["defaults"]
    named = [next(iter(entry)) for entry in listed if isinstance(entry, dict)]
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/*.yaml")}
    hydra = [p.relative_to(CONF).as_posix() for p in sorted((CONF / "hydra").iterdir())]
    return [*named, *sorted(found - set(named)), *hydra]


def keys() -> dict[str, Key]:
    """Return every key that can be given on a command line, by its name."""
    found: dict[str, Key] = {}
    base = run.composition([])
    for group in groups():
        for choice in choices(group):
            path = CONF / group / f"{choice}.yaml"
            if group.startswith("hydra/"):
                of_hydra = OmegaConf.load(path)
                assert isinstance(of_hydra, DictConfig)
                _add(found, of_hydra, group.replace("/", "."), choice, path)
            elif group not in WHOLE:
                node = run.composition([f"{group}={choice}"])._get_node(group)
                assert isinstance(node, DictConfig)
                _add(found, node, group, choice, path)
    for name in map(str, base):
        if name not in groups() or name in WHOLE:
            _add_one(found, base, name, name, "", CONF / "config.yaml")
    for above, kind in _ITEMS.items():
        item = OmegaConf.structured(kind)
        _add(found, item, f"{above}[]", "", CONF / "freeze" / "none.yaml")
    return found


def _add(found: dict[str, Key], node: DictConfig, above: str, choice: str, path: Path) -> None:
    for name in map(str, node):
        if name not in ("_target_", "defaults"):
            _add_one(found, node, name, f"{above}.{name}", choice, path)


def _add_one(
    found: dict[str, Key], node: DictConfig, name: str, key: str, choice: str, path: Path
) -> None:
    child = node._get_node(name)
    if isinstance(child, DictConfig) and not child._is_none() and len(child):
        _add(found, child, key, choice, path)
        return
    entry = found.setdefault(key, Key(key))
    typed = OmegaConf.get_type(node)
    of_file = _comments(path)
    relative = key.removeprefix(f"{path.parent.relative_to(CONF).as_posix().replace('/', '.')}.")
    meaning = of_file.get(key) or of_file.get(relative, "")
    if dataclasses.is_dataclass(typed):
        declared = next(each for each in dataclasses.fields(typed) if each.name == name)
        entry.kind, entry.range = _kind(str(declared.type)), _range(declared.metadata)
        meaning = _of_field(typed, name) or meaning
    elif "_target_" in node:
        kind, of_constructor = _of_parameter(node["_target_"], name)
        entry.kind = kind or entry.kind
        meaning = meaning or of_constructor
    value = "required" if OmegaConf.is_missing(node, name) else _value(child)
    entry.kind = entry.kind or _kind(type(getattr(child, "_value", lambda: child)()).__name__)
    entry.defaults[choice] = value
    if meaning:
        entry.meanings[choice] = f"{meaning[:1].upper()}{meaning[1:]}".rstrip(".") + "."


def _value(node: Any) -> str:
    if isinstance(node, ListConfig | DictConfig):
        value = OmegaConf.to_container(node, resolve=False)
    else:
        value = node._value()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n")
    return text.strip() if isinstance(value, list | dict) else str(value)


def _kind(annotation: str) -> str:
    """Say a Python type as one says it of a value in YAML."""
    names = {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "None": "null",
        "NoneType": "null",
        "Any": "any",
        "Augment": "node with a `_target_`",
    }
    said = []
    for part in re.split(r"\s*\|\s*", re.sub(r"(typing|collections\.abc)\.", "", annotation)):
        if inner := re.fullmatch(r"(?:list|Sequence|ListConfig|tuple)\[(\w+).*\]", part):
            said.append(f"list of {_kind(inner[1])}")
        elif literal := re.fullmatch(r"Literal\[(.*)\]", part):
            said.append("one of " + ", ".join(ast.literal_eval(f"[{literal[1]}]")))
        elif part.startswith(("dict", "Mapping")):
            said.append("mapping")
        elif part in ("list", "ListConfig"):
            said.append("list")
        else:
            said.append(names.get(part, part))
    return " or ".join(said)


def _range(metadata: Mapping[str, Any]) -> str:
    if "choices" in metadata:
        return "one of " + ", ".join(f"`{each}`" for each in metadata["choices"])
    if "low" not in metadata:
        return ""
    said = []
    if math.isfinite(metadata["low"]):
        said.append(f"{'above' if metadata['above'] else 'at least'} {metadata['low']:g}")
    if math.isfinite(metadata["below"]):
        said.append(f"below {metadata['below']:g}")
    return " and ".join(said)


def _of_field(declaring: type, name: str) -> str:
    """Return the comment of a field: above it, or at the end of its line."""
    for owner in (each for each in declaring.__mro__ if dataclasses.is_dataclass(each)):
        lines = inspect.getsource(owner).splitlines()
        [parsed] = ast.parse(textwrap.dedent("\n".join(lines))).body
        for statement in getattr(parsed, "body", []):
            target = getattr(statement, "target", None)
            if not isinstance(target, ast.Name) or target.id != name:
                continue
            above: list[str] = []
            number = statement.lineno - 2
            while lines[number].lstrip().startswith("#"):
                above.insert(0, lines[number].lstrip("# "))
                number -= 1
            if above:
                return " ".join(above)
            return lines[(statement.end_lineno or 1) - 1].partition("  # ")[2]
    return ""


def _of_parameter(target: str, name: str) -> tuple[str, str]:
    """Return type and description of a constructor's parameter."""
    module, _, attribute = target.rpartition(".")
    constructor = getattr(import_module(module), attribute)
    parameter = inspect.signature(constructor).parameters.get(name)
    kind = ""
    if parameter is not None and parameter.annotation is not parameter.empty:
        annotation = parameter.annotation
        plain = isinstance(annotation, type) and not get_args(annotation)
        kind = _kind(annotation.__name__ if plain else str(annotation))
    read = ClassDoc if isinstance(constructor, type) else FunctionDoc
    said = {each.name: " ".join(each.desc) for each in read(constructor)["Parameters"]}
    return kind, said.get(name, "")


def _comments(path: Path) -> dict[str, str]:
    """Return what a file's comments say of its keys, by their names from the file's top."""
    found: dict[str, str] = {}
    lines = path.read_text("utf-8").splitlines()
    listed = None
    for line in lines:
        head = re.fullmatch(rf"#\s{{{_WIDTH - 1}}}([\w.]+)  +(\S.*)", line)
        if head:
            listed = head[1]
            found[listed] = head[2]
        elif listed and re.match(r"#\s{8,}\S", line):
            found[listed] += f" {line.lstrip('# ')}"
        else:
            listed = None
    above: list[tuple[int, str]] = []
    waiting: list[str] = []
    column, key = -1, ""
    for number, line in enumerate(lines):
        comment = re.fullmatch(r"(\s*)#\s?(.*)", line)
        if comment:
            if key and len(comment[1]) == column and column > 0:
                found[key] += f" {comment[2].strip()}"
            else:
                waiting.append(comment[2].strip())
            continue
        column, key = -1, ""
        given = re.match(r"(\s*)([\w.]+):(.*?)(?:\s#\s(.*))?$", line)
        if given is None:
            waiting = []
            continue
        indent = len(given[1])
        above = [each for each in above if each[0] < indent] + [(indent, given[2])]
        name = ".".join(each[1] for each in above)
        if given[4] is not None:
            key, column = name, line.index(" # ") + 1
            found[name] = given[4].strip()
        elif waiting and number > len(waiting):  # not the head of the file
            found[name] = " ".join(waiting)
        waiting = []
    return found


def head(path: Path) -> str:
    """Return what the comment at a file's head says, without its list of keys."""
    said: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("# @package") or re.match(rf"#\s{{{_WIDTH - 1},}}\S", line):
            continue
        if not line.startswith("#"):
            break
        said.append(line.lstrip("# "))
    return re.sub(r" ?Other keys \(defaults in [^)]*\):[^.]*\.", "", " ".join(said))


def page() -> str:
    """Return the page, MyST Markdown."""
    all_keys = keys()
    written: list[str] = []
    for group in groups():
        dotted = group.replace("/", ".")
        mine = [key for name, key in all_keys.items() if name.startswith(f"{dotted}.")]
        mine += [key for name, key in all_keys.items() if name.startswith(f"{dotted}[]")]
        written += [f"## {group}", ""]
        for choice in choices(group):
            written += [f"`{group}={choice}`", f": {_text(head(CONF / group / f'{choice}.yaml'))}"]
            written.append("")
        for key in mine:
            written += _confval(key, choices(group))
    rest = [key for name, key in all_keys.items() if name.split(".")[0] not in groups()]
    rest = [key for key in rest if not key.name.startswith("hydra.")]
    for above in dict.fromkeys(key.name.rpartition(".")[0] for key in rest):
        written += [f"## {above or 'The rest'}", ""]
        for key in (key for key in rest if key.name.rpartition(".")[0] == above):
            written += _confval(key, [])
    return "\n".join(written)


def _confval(key: Key, of: list[str]) -> Iterator[str]:
    yield f"```{{confval}} {key.name}"
    yield f":type: {key.kind}{f', {key.range}' if key.range else ''}"
    yield f":default: {_by_choice(key.defaults, code=True)}"
    yield ":no-contents-entry:"
    yield ""
    if of and 0 < len(key.defaults) < len(of) and "" not in key.defaults:
        yield f"*Only with {', '.join(f'`{each}`' for each in key.defaults)}.*"
    yield _by_choice(key.meanings, code=False)
    yield "```"
    yield ""


def _by_choice(values: Mapping[str, str], code: bool) -> str:
    """Say a value once where all choices agree, else of which choices it is."""
    of: dict[str, list[str]] = {}
    for choice, value in values.items():
        of.setdefault(value, []).append(choice)
    say = (lambda value: f"`{value}`" if value else "`''`") if code else _text
    if len(of) <= 1:
        return "".join(map(say, of))
    if code and max(map(len, of)) > 60:
        return "by the choice; its file says it"
    if code:
        return ", ".join(f"{say(value)} ({', '.join(names)})" for value, names in of.items())
    return " ".join(f"*{', '.join(names)}*: {say(value)}" for value, names in of.items())


def _text(comment: str) -> str:
    """Return a comment as Markdown: what is not code means nothing but itself."""
    pieces = re.split(r"(``?[^`]+``?)", comment)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([\\*_<\[\]{}$#|])", r"\\\1", piece)
        for piece in pieces
    )
