"""Files of runs and models: copied to this machine, made anew in other formats."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
from click.core import ParameterSource

from gluonexp.base.errors import GluonexpError
from gluonexp.base.files import pointer, temporary
from gluonexp.base.text import listed
from gluonexp.cli.options import FOLDER, MODEL, URI, complete_models
from gluonexp.cli.output import JSON, write
from gluonexp.inference.opening import opened


@click.command()
@MODEL
@click.argument("path", default="")
@click.option("--to", type=FOLDER, help="The folder to copy to.")
@click.option("--list", "listing", is_flag=True, help="Only say what there is, with sizes.")
@URI
@JSON
def download(
    model: str,
    path: str,
    to: Path | None,
    listing: bool,
    tracking_uri: str | None,
    form: str | None,
) -> None:
    """Copy the files of a run (or only PATH of them) to a folder, checked.

    MODEL is a run's id, the first 6 or more characters of one, 'last', models:/NAME@ALIAS or
    models:/NAME/VERSION; a sweep's id means the sweep's own files. Each file keeps its path.
    Files that are there already and right are kept, so that the same command resumes a download
    that was cut off.

    \b
    gluonexp download last --list
    gluonexp download last export --to .
    gluonexp download 3f2a91c0 plots/confusion_matrix.png --to pictures
    gluonexp download models:/digits@champion --to digits
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp import tracking
    from gluonexp.tracking import artifacts, references
    from gluonexp.tracking.logs import offline_run

    if (to is None) is not listing:
        raise click.UsageError("name the folder to copy to: --to DIR (or ask for --list)")
    try:
        if (log := offline_run(model.removeprefix("runs:/"), tracking_uri)) is not None:
            source = artifacts.of_log(log)
        else:
            client = tracking.open_store(tracking.existing(tracking_uri))
            source = references.artifacts(client, model)
    except GluonexpError:
        if Path(model).expanduser().is_dir():  # a run's folder may well be called like the run
            raise GluonexpError(f"{model} is a folder already: there is nothing to copy") from None
        raise
    files = source.files(path)
    if listing and form == "json":
        write({"files": files})
        return
    if listing:
        for file in files:
            size = "?" if file.size is None else f"{file.size:,}"
            click.echo(f"{size:>15}  {file.path}")
        return
    assert to is not None
    done = artifacts.download(source, files, to)
    were = "was" if len(done.kept) == 1 else "were"
    kept = f", {len(done.kept)} {were} there already" if done.kept else ""
    count = "1 file" if len(done.copied) == 1 else f"{len(done.copied)} files"
    click.echo(f"{to}: {count} copied{kept}; {done.size / 1e6:,.1f} MB, checked")
    if form == "json":
        write({"folder": to, **vars(done)})


FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


def sizes(text: str) -> tuple[int, int, int]:
    """Read three sizes, such as 3x224x224."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{text}: write three sizes, such as 3x224x224")
    first, second, third = map(int, parts)
    return first, second, third


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers, such as 0.485,0.456,0.406."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text}: write numbers, such as 0.485,0.456,0.406") from None


@click.command()
@click.argument(
    "words", metavar="[MODEL] [OVERRIDES]...", nargs=-1, shell_complete=complete_models
)
@click.option("--to", required=True, type=FOLDER, help="The folder to make.")
@click.option("--onnx", is_flag=True, help="Also model.onnx.")
@click.option("--int8", is_flag=True, help="Also a copy that computes in 8 bits.")
@click.option("--torch", is_flag=True, help="Also model.py and its values, for PyTorch alone.")
@click.option(
    "--preprocess",
    type=click.Choice(["signature", "graph"]),
    default="signature",
    show_default=True,
    help="graph: also a network that takes images as they are, uint8 NHWC.",
)
@click.option("--symbol", type=FILE, help="A network from elsewhere: its NAME-symbol.json.")
@click.option("--params", type=FILE, help="Its NAME-0000.params.")
@click.option("--output", metavar="NAME", help="Which to take of its outputs, if it has several.")
@click.option("--input", "inputs", type=sizes, metavar="CxHxW", help="What it takes: 3x224x224.")
@click.option(
    "--image", type=sizes, metavar="HxWxC", help="Images before that.  [default: the same size]"
)
@click.option(
    "--mean",
    type=numbers,
    default="0",
    help="Of values from 0 to 1: 0.485,0.456,0.406 (and not 123.68,...).",
)
@click.option(
    "--std",
    type=numbers,
    default="1",
    help="The same; 0.003922 (1/255) for a network that takes values from 0 to 255.",
)
@click.option(
    "--classes",
    type=FILE,
    help="Their names, a line each.  [default: those of the data, if as many; else 0, 1...]",
)
@URI
@JSON
def export(
    words: tuple[str, ...],
    to: Path,
    onnx: bool,
    int8: bool,
    torch: bool,
    preprocess: str,
    symbol: Path | None,
    params: Path | None,
    output: str | None,
    inputs: tuple[int, int, int] | None,
    image: tuple[int, int, int] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: Path | None,
    tracking_uri: str | None,
    form: str | None,
) -> None:
    """Export MODEL again, in more formats and with a certificate; or a network from elsewhere.

    For an old run, or where a format is missing. MODEL is what `gluonexp predict` takes; its run
    is left as it is. Where sample images are missing (or --int8 is to be calibrated), the data
    that it was trained on are read again; OVERRIDES name others, as for `gluonexp evaluate`.

    A Gluon or Module network that was trained elsewhere, --symbol and --params, becomes an export
    like any other. It gets a certificate if OVERRIDES name data for it.

    \b
    gluonexp export last --onnx --to ./digits
    gluonexp export 3f2a91c0 --onnx --int8 --preprocess graph --to ./served
    gluonexp export last --torch --to ./left
    gluonexp export --symbol net-symbol.json --params net-0000.params --input 3x224x224 \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --classes names.txt --to ./net
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.cli import render
    from gluonexp.cli.settings import settings, trained_on
    from gluonexp.config.schema import ExportConfig
    from gluonexp.export.foreign import adopt
    from gluonexp.inference import evaluate, reexport
    from gluonexp.inference.predict import Classifier
    from gluonexp.model_folder.names import CARD
    from gluonexp.model_folder.signature import Signature

    foreign = symbol is not None or params is not None
    if not foreign and not words:
        raise click.UsageError("name a MODEL; or a network from elsewhere: --symbol, --params")
    if not foreign and (unread := _given("output", "inputs", "image", "mean", "std", "classes")):
        raise click.UsageError(
            f"{listed(unread)}: said of a network from elsewhere, which --symbol and --params name"
        )
    with temporary() as place, ExitStack() as stack:
        recorded, overrides = None, words
        if foreign:
            if symbol is None or params is None or inputs is None:
                raise click.UsageError("name all of --symbol, --params and --input")
            channels, height, width = inputs
            rest = image or (height, width, channels)
            names = None if classes is None else _lines(classes)
            like: tuple[str, ...] = ()
            if names is None and overrides:
                like = evaluate.classes_of(settings(None, overrides, rest))
            source = adopt(
                symbol,
                params,
                place / "adopted",
                image=rest,
                input_shape=inputs,
                mean=mean,
                std=std,
                classes=names,
                data_classes=like,
                output=output,
            )
            outputs = Signature.read(source).classes
            if not {*like} <= {*outputs}:
                raise GluonexpError(
                    f"{symbol} has {len(outputs)} outputs, the data {len(like)} classes: name "
                    "those of the network with --classes"
                )
        else:
            found = stack.enter_context(opened(words[0], tracking_uri))
            source, overrides = found.folder, words[1:]
            if reexport.needs_data(source, int8):
                recorded = found.beside("config/resolved.yaml")
        data = None
        if reexport.needs_data(source, int8) and (overrides or int8 or not foreign):
            config = settings(recorded, overrides, Signature.read(source).image)
            data = evaluate.data_for(Classifier(source), config, trained_on(recorded))
        with reexport.made(source, to) as folder:
            wanted = ExportConfig(onnx=onnx, int8=int8, torch=torch, preprocess=preprocess)
            origin = None
            if not foreign and not (folder / CARD).is_file():
                origin = reexport.recorded_origin(found.beside, Signature.read(folder).classes)
            proved = reexport.complete(folder, wanted, data, origin)
    click.echo(f"written: {to}")
    adopted = (Signature.read(to).adopted or {}) if foreign else {}
    changes = adopted.get("changes", ())
    for change in changes:
        click.echo(f"  note: {change}")
    if proved is None:
        click.echo("not certified: no data are named that it could be tried on", err=True)
    else:
        render.certificate(proved)
    if form == "json":
        certificate = None if proved is None else render.certificate_document(proved)
        write({"folder": to, "changes": changes, "certificate": certificate})


def _given(*names: str) -> list[str]:
    """Return which of these options the user typed, as they are typed."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT
    ]


def _lines(path: Path) -> list[str]:
    if said := pointer(path):
        raise GluonexpError(said)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise GluonexpError(f"{path}: cannot be read: {error}") from None
