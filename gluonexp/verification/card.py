"""``README.md`` of an export, its model card: what it is, how good, what was proved of it.

It is written with the certificate, which has its digest. What an export's own files do not say
(where it is from, how good it is on which data) is told when it is made, and kept when it is
exported again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from gluonexp import __version__
from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import write_text
from gluonexp.base.markdown import bullets, code, paragraph, plain, table
from gluonexp.base.measures import ClassScore
from gluonexp.base.secrets import hide
from gluonexp.base.text import digits, listed
from gluonexp.model_folder import names, signature
from gluonexp.model_folder.signature import ArraySignature, Signature
from gluonexp.verification.agreement import QUANTIZED
from gluonexp.verification.certificate import Certificate
from gluonexp.verification.usage import loading

FILE: Final = names.CARD

LARGEST_DESCRIPTION: Final = 5000  # characters, which MLflow keeps of a version's description

# A longer table names the classes of the lowest recall.
_MOST_CLASSES: Final = 100
_WEAKEST: Final = 5
_LARGEST: Final = 1 << 20  # bytes, of a card that is read

_SCORES, _DATA, _ORIGIN, _BY_CLASS = "How good it is", "Data", "Origin", "By class"
_OF_THE_RUN: Final = (_SCORES, _DATA, _ORIGIN, _BY_CLASS)
_WEAK: Final = "Lowest recall"  # a sentence among the limits, which is the run's too


@dataclass(frozen=True)
class Origin:
    """What is known of an export besides its files; everything may be unknown.

    Attributes
    ----------
    run_id, command, engine, commit
        Of the run that trained it: its id, what was typed, what computed it, its code.
    data, digest
        Title and digest of the data.
    splits
        How many inputs each split has.
    inputs
        Digests of data by their names, as MLflow has made them.
    notes
        Sentences on the data.
    split, scores, classes
        What was measured on which split: metrics by name, and each class.
    """

    run_id: str | None = None
    command: str | None = None
    engine: str | None = None
    commit: str | None = None
    data: str | None = None
    digest: str | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    split: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    classes: Sequence[ClassScore] = ()


def write(folder: Path, proved: Certificate | None, origin: Origin | None = None) -> None:
    """Write the card of the export in `folder`, in the place of the one that is there.

    Parameters
    ----------
    proved
        None: nothing was.
    origin
        None: what a card in `folder` says of it is kept.
    """
    kept, front = _kept(folder / names.CARD) if origin is None else ({}, None)
    text = _card(folder, proved, origin or Origin(), kept, front)
    write_text(folder / names.CARD, text)


def body(text: str) -> str:
    """Return a card without its front matter."""
    return _FRONT.sub("", text, count=1).strip()


def description(text: str) -> str:
    """Return a card without its front matter, in as many characters as a version may have."""
    whole = body(text)
    if len(whole) <= LARGEST_DESCRIPTION:
        return whole
    rest = f"\n\nThe rest is in the export, `{names.CARD}`."
    room = whole[: LARGEST_DESCRIPTION - len(rest) - len("\n```")]
    room = room[: room.rfind("\n")]
    if len(re.findall(r"(?m)^```", room)) % 2:
        room += "\n```"
    return room + rest


_FRONT: Final = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def _kept(path: Path) -> tuple[dict[str, str], str | None]:
    """Return what a card says that its folder does not: sections, and the front matter."""
    try:
        if path.stat().st_size > _LARGEST:
            return {}, None
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}, None
    found = _FRONT.match(text)
    parts = re.split(r"(?m)^## (.+)$", text)
    sections = dict(zip(parts[1::2], (part.strip("\n") for part in parts[2::2]), strict=True))
    kept = {name: body for name, body in sections.items() if name in _OF_THE_RUN}
    weak = re.search(rf"(?ms)^- ({_WEAK}.*?)(?=^- |^$|\Z)", sections.get("Limits", ""))
    if weak:
        kept[_WEAK] = " ".join(weak[1].split())
    return kept, found and found[0]


def _card(
    folder: Path,
    proved: Certificate | None,
    origin: Origin,
    kept: Mapping[str, str],
    front: str | None,
) -> str:
    told = signature.read(folder)
    made = {_SCORES: _scores(origin), _DATA: _data(told, origin), _ORIGIN: _origin(origin)}
    made[_BY_CLASS] = _by_class(origin)
    made |= kept
    weak = kept.get(_WEAK) or _weakest(origin)
    sections = {
        "What it takes": _takes(told),
        _SCORES: made[_SCORES],
        "Limits": bullets(_limits(told, proved, origin, made[_SCORES], weak)),
        "How to load it": loading(folder, told),
        "What was proved": _proved(proved),
        _DATA: made[_DATA],
        _ORIGIN: made[_ORIGIN],
        _BY_CLASS: made[_BY_CLASS],
    }
    parts = [f"# {_title(told, origin)}", paragraph(_is(told))]
    for name, text in sections.items():
        if text:
            parts += [f"## {name}", text]
    return (front or _front_matter(folder, told, origin)) + "\n" + "\n\n".join(parts) + "\n"


def _title(told: Signature | ArraySignature, origin: Origin) -> str:
    kind = "Image classifier" if isinstance(told, Signature) else "Network"
    return f"{kind}: {plain(origin.data)}" if origin.data else kind


def _is(told: Signature | ArraySignature) -> str:
    made = f"It is an export of gluonexp {__version__}, of a network of Apache MXNet Gluon."
    if isinstance(told, ArraySignature):
        return f"A network for {plain(told.takes)}. {made}"
    count = len(told.classes)
    named = listed(map(plain, told.classes))
    return f"A network that says which of {count} classes an image shows: {named}. {made}"


def _takes(told: Signature | ArraySignature) -> str:
    if isinstance(told, ArraySignature):
        return paragraph(
            f"It takes {plain(told.takes)}, as they are: nothing is done to them before the "
            "network."
        )
    height, width, channels = told.image
    steps = told.preprocess
    numbers = {name: ", ".join(f"{v:g}" for v in getattr(steps, name)) for name in ("mean", "std")}
    said = [
        f"Images of {height} x {width} pixels and {channels} channel{'s' * (channels > 1)}, "
        "uint8, in the order (N, height, width, channel). `signature.json` says it for programs; "
        "what is done to them, in this order:",
    ]
    todo = ["values are divided by 255"]
    if steps.channels != channels:
        todo.append(
            "the channel is repeated three times"
            if steps.channels > channels
            else "three channels become one, their luma"
        )
    todo.append(f"normalized: mean {numbers['mean']}, standard deviation {numbers['std']}")
    if (steps.height, steps.width) != (height, width):
        todo.append(f"resized to {steps.height} x {steps.width}, bilinear")
    todo.append(
        f"the network gets float32 (N, {steps.channels}, {steps.height}, {steps.width}), and "
        "answers with logits, whose softmax is the probabilities"
    )
    text = f"{paragraph(said[0])}\n\n{bullets(todo)}"
    if told.adopted:
        files = " and ".join(plain(str(told.adopted.get(key))) for key in ("symbol", "params"))
        changes = [plain(str(each)) for each in told.adopted.get("changes", ())]
        text += f"\n\n{paragraph(f'The network is from elsewhere, {files}; what was changed:')}"
        text += f"\n\n{bullets(changes or ['nothing'])}"
    return text


def _scores(origin: Origin) -> str:
    if not origin.scores:
        return ""
    images = sum(row.support for row in origin.classes)
    of = f", {images:,} images" if images else ""
    head = f"On the {origin.split} split{of}:"
    rows = [(_NAMED.get(name, name), digits(value)) for name, value in origin.scores.items()]
    by_class = f"\n\nClass by class: below, under {_BY_CLASS!r}." if origin.classes else ""
    return f"{head}\n\n{table(('metric', 'value'), rows)}{by_class}"


_NAMED: Final = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
}


def _by_class(origin: Origin) -> str:
    rows = [row for row in origin.classes if row.support]
    note = ""
    if len(rows) > _MOST_CLASSES:
        total = len(rows)
        rows = sorted(rows, key=lambda row: row.recall)[:_MOST_CLASSES]
        note = f"\n\nThe {_MOST_CLASSES} of {total:,} classes with the lowest recall."
    if missing := [plain(row.name) for row in origin.classes if not row.support]:
        note += f"\n\n{paragraph(f'Without images, so not measured: {listed(missing)}.')}"
    if not rows:
        return ""
    cells = [
        (plain(row.name), *map(digits, (row.precision, row.recall, row.f1)), str(row.support))
        for row in rows
    ]
    return table(("class", "precision", "recall", "F1", "images"), cells) + note


def _weakest(origin: Origin) -> str | None:
    rows = [row for row in origin.classes if row.support and row.recall < 1]
    worst = sorted(rows, key=lambda row: row.recall)[:_WEAKEST]
    if not worst:
        return None
    said = (f"{plain(row.name)} ({row.recall:.0%} of {row.support})" for row in worst)
    return f"{_WEAK} on the {origin.split} split: {', '.join(said)}."


def _limits(
    told: Signature | ArraySignature,
    proved: Certificate | None,
    origin: Origin,
    scores: str,
    weak: str | None,
) -> list[str]:
    said = []
    if proved is None:
        said.append("Nothing was proved of these files: no data were named to try them on.")
    else:
        said.append(
            f"The certificate proves that the files compute what {proved.reference} computed on "
            f"{proved.images} inputs. It does not prove that the answers are right, nor anything "
            "of other inputs or other versions of the runtimes."
        )
    if isinstance(told, Signature):
        said.append(
            "Every image gets one of its classes, also one that shows none of them: a low "
            "probability is no test for that."
        )
    if scores:
        said.append(
            "How good it is was measured on these data alone, and not on images of other cameras, "
            "sizes or places."
        )
    else:
        said.append("How good it is is not recorded here.")
    said += [plain(note).rstrip(".") + "." for note in origin.notes]
    if weak is not None:
        said.append(weak)
    if proved is not None:
        said += [
            f"{each.runtime} computes in 8 bits, which is not the same: {each.sentence()}."
            for each in proved.agreements
            if each.runtime in QUANTIZED
        ]
        said.append(
            f"`{names.SAMPLES}` holds the {proved.images} inputs of the proof: whoever gets the "
            "export gets them."
        )
    return said


def _proved(proved: Certificate | None) -> str:
    if proved is None:
        return ""
    head, *rows = (row[:-1] for row in proved.rows())  # how fast it was is of that moment
    versions = ", ".join(f"{name} {text}" for name, text in sorted(proved.versions.items()))
    return "\n\n".join(
        [
            paragraph(f"By its certificate, {proved.sentence()}."),
            table(head, rows),
            paragraph(
                f"Versions: {plain(versions)}. `{names.CERTIFICATE}` has the SHA-256 of every "
                "file; `gluonexp verify FOLDER` proves it again."
            ),
        ]
    )


def _data(told: Signature | ArraySignature, origin: Origin) -> str:
    said, what = [], "images" if isinstance(told, Signature) else "inputs"
    if origin.data:
        said.append(f"title: {plain(origin.data)}")
    said += [f"{plain(name)}: {count:,} {what}" for name, count in origin.splits.items()]
    if origin.digest:
        said.append(f"digest (SHA-256 of all samples): `{origin.digest}`")
    said += [
        f"{plain(name)}: digest (as MLflow makes it) {plain(digest)}"
        for name, digest in origin.inputs.items()
    ]
    return bullets(said)


def _origin(origin: Origin) -> str:
    facts = {"run": origin.run_id, "engine": origin.engine, "git commit": origin.commit}
    text = bullets(f"{name}: {plain(value)}" for name, value in facts.items() if value)
    if origin.command:
        text += f"\n\nThe command:\n\n{code(' '.join(hide(origin.command).split()), 'sh')}"
    return text.strip()


def _front_matter(folder: Path, told: Signature | ArraySignature, origin: Origin) -> str:
    """Return what model hubs read; a licence is for its owner to name."""
    tags = ["gluonexp", "mxnet", "gluon"]
    tags += ["onnx"] if (folder / names.ONNX).exists() else []
    tags += ["pytorch"] if (folder / names.TORCH[0]).exists() else []
    fields: dict[str, Any] = {"library_name": "mxnet", "tags": tags}
    if isinstance(told, Signature):
        fields["pipeline_tag"] = "image-classification"
    accuracy = origin.scores.get("acc")
    if isinstance(told, Signature) and origin.data and accuracy is not None:
        fields["metrics"] = ["accuracy"]
        title = hide(" ".join(origin.data.split()))
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": title, "type": "image-folder", "split": origin.split},
            "metrics": [{"type": "accuracy", "value": round(accuracy, 6)}],
        }
        fields["model-index"] = [{"name": _title(told, origin), "results": [result]}]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def read(folder: Path) -> str | None:
    """Return the card of the export in `folder`; None where there is none, as in older exports."""
    path = folder / names.CARD
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise GluonexpError(f"{path}: cannot be read: {error}") from None
