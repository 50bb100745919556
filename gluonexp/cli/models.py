"""What was exported: used, scored, proved."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gluonexp.cli.options import MODEL, NEW_FILE, RUNTIME, URI, complete_overrides
from gluonexp.cli.output import CSV, JSON, write
from gluonexp.inference.opening import opened
from gluonexp.model_folder import names


@click.command()
@MODEL
@click.argument("images", nargs=-1, type=click.Path())
@click.option(
    "--top", type=click.IntRange(1), help="Show so many classes of each image.  [default: 1]"
)
@click.option("--plot", type=NEW_FILE, help="Draw the answers.")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    help="So many a file may have; others are not decoded.  [default: 200,000,000]",
)
@CSV
@JSON
@RUNTIME
@URI
def predict(
    model: str,
    images: tuple[str, ...],
    top: int | None,
    plot: Path | None,
    max_pixels: int | None,
    form: str | None,
    runtime: str,
    tracking_uri: str | None,
) -> None:
    """Classify IMAGES (files, folders, patterns) with MODEL.

    MODEL is a run's id, the first 6 or more characters of one, 'last', models:/NAME@ALIAS,
    models:/NAME/VERSION or a folder that holds signature.json; a sweep means its best run.

    Without IMAGES, the run's own example images are classified, or the samples in an export. An
    image whose folder has the name of a class is shown with that as its true label. --csv
    and --json have the probability of every class, or with --top those of the likeliest.

    \b
    gluonexp predict last
    gluonexp predict 3f2a91c0 photo.jpg --top 5
    gluonexp predict models:/digits@champion scans/ --csv > answers.csv
    gluonexp predict ./export 'scans/**/*.png' --runtime onnx --plot answers.png
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.cli import render
    from gluonexp.data.images import MAX_PIXELS
    from gluonexp.inference import predict as use

    with opened(model, tracking_uri) as found:
        given = list(images)
        if not given and (examples := found.beside("data/examples")) is not None:
            given = [str(examples)]
        if given:
            answers = use.predict_files(
                found.folder,
                given,
                runtime=runtime,
                plot=plot,
                max_pixels=max_pixels or MAX_PIXELS,
            )
        elif (found.folder / names.SAMPLES).is_file():
            answers = use.predict_samples(found.folder, runtime=runtime, plot=plot)
        else:
            raise click.UsageError(f"{model}: no example images are there; name IMAGES")
    if form == "csv":
        render.predictions_csv(answers, top, sys.stdout)
    elif form == "json":
        write(render.predictions_document(answers, top))
    elif answers.answers:
        render.predictions(answers.answers, top or 1)
    if plot is not None and answers.answers:
        click.echo(f"drawn: {plot}", err=True)
    for reason in answers.unreadable:
        click.echo(f"Error: {reason}", err=True)
    if answers.unreadable:
        sys.exit(1)


@click.command()
@MODEL
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_overrides)
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train", "all"]),
    default="test",
    show_default=True,
    help="Which images; all: also those that a run would train on.",
)
@click.option("--plot", type=NEW_FILE, help="Draw the confusion matrix.")
@click.option("--reliability", type=NEW_FILE, help="Draw the reliability diagram.")
@CSV
@JSON
@RUNTIME
@URI
def evaluate(
    model: str,
    overrides: tuple[str, ...],
    split: str,
    plot: Path | None,
    reliability: Path | None,
    form: str | None,
    runtime: str,
    tracking_uri: str | None,
) -> None:
    """Score MODEL on a data set: accuracy, loss and more, and each class by itself.

    MODEL is what `gluonexp predict` takes. The data are those its run was trained on, read
    again; OVERRIDES name others, as for a run. Their classes must be the model's or some of
    them, by name and in any order; images in a folder are read in the size that it takes. Of a
    folder without train/ and test/, the test split is 20 % of each class: if none of it was
    trained on, --split all scores every image. A data set of your own package is read only if
    you allow that here: build.allow=[mypackage].

    The calibration error (ece) is the mean distance between how sure the model is and how often
    it is right; --reliability draws it.

    \b
    gluonexp evaluate last
    gluonexp evaluate last --split val --plot confusion.png
    gluonexp evaluate models:/digits@champion dataset=digits --json
    gluonexp evaluate ./export dataset=image_folder dataset.root=photos --split all
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.cli import render
    from gluonexp.cli.settings import names_data, settings, trained_on
    from gluonexp.inference import evaluate as scoring
    from gluonexp.model_folder.signature import Signature

    with opened(model, tracking_uri) as found:
        recorded = found.beside("config/resolved.yaml")
        result = scoring.evaluate(
            found.folder,
            settings(recorded, overrides, Signature.read(found.folder).image),
            split=split,
            runtime=runtime,
            plot=plot,
            reliability=reliability,
            trained_on=trained_on(recorded),
        )
    if form == "csv":
        render.evaluation_csv(result, sys.stdout)
    elif form == "json":
        write(result)
    else:
        render.evaluation(result, others=names_data(overrides))
    for drawn in filter(None, (plot, reliability)):
        click.echo(f"drawn: {drawn}", err=True)


@click.command()
@MODEL
@URI
@JSON
def verify(model: str, tracking_uri: str | None, form: str | None) -> None:
    """Prove again that MODEL is the network that was trained.

    Compares the sha256 of every file with export/certificate.json, then scores the images in
    samples.safetensors with every runtime that is installed, in clean processes, and compares
    with what the trained network said. Of a run, the certificate must be the one whose sha256 the
    run recorded when it ended. Exit status 1, and the reason, if anything differs.

    MODEL is what `gluonexp predict` takes.

    \b
    gluonexp verify last
    gluonexp verify models:/digits@champion
    gluonexp verify ./export
    """  # noqa: D301 (click wants the backspace itself)
    from gluonexp.cli import render
    from gluonexp.verification import verify as proving

    with opened(model, tracking_uri) as found:
        proved = proving.check(found.folder, recorded_digest=found.certificate)
    if form == "json":
        write(render.certificate_document(proved))
    else:
        render.certificate(proved)
