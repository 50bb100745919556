"""Runs, sweeps and models from Python: ``import gluonexp.api as gx``.

What is slow to import (MXNet, MLflow, pandas) is imported where it is first needed.

Examples
--------
>>> import gluonexp.api as gx
>>> gx.__all__
['GluonexpError', 'Model', 'Run', 'Stopped', 'Sweep', 'load', 'run', 'runs', 'sweep', 'track']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gluonexp.api.model import Model
from gluonexp.api.recorded import Run
from gluonexp.api.sweeps import Sweep
from gluonexp.base.errors import GluonexpError, Stopped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    import pandas as pd

    from gluonexp.experiment.own_loop import TrackedLoop

__all__ = [
    "GluonexpError",
    "Model",
    "Run",
    "Stopped",
    "Sweep",
    "load",
    "run",
    "runs",
    "sweep",
    "track",
]


def run(*overrides: str, config_dir: str | Path | None = None) -> Run:
    """Train one run, as ``python -m gluonexp.run`` does with these overrides.

    It is the same run: with a folder and a log of its own, recorded, exported, proved. Relative
    paths count from the current folder. Ctrl-C, or the notebook's "interrupt", ends it KILLED
    with its last checkpoint, from which ``trainer.resume=ID`` goes on.

    Parameters
    ----------
    *overrides
        Words as on the command line: ``"model=cnn"``, ``"optim.lr=0.01"``.
    config_dir
        A folder of your own groups, as for ``--config-dir``.

    Returns
    -------
    Run
        The run, which has ended.

    Raises
    ------
    GluonexpError
        A setting, the data or the export is not right. A run that had begun is FAILED.
    KeyboardInterrupt
        It was interrupted.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> run = gx.run("dataset=digits", "model=mlp", "trainer.epochs=2")  # doctest: +SKIP
    >>> run.status, run.metrics["test/acc"]  # doctest: +SKIP
    ('FINISHED', 0.9222222222222223)
    """
    from gluonexp.api import running

    return running.single(overrides, config_dir)


def sweep(*overrides: str, config_dir: str | Path | None = None) -> Sweep:
    """Run a sweep, as ``python -m gluonexp.run -m`` does with these overrides.

    Points that fail raise nothing: the sweep is FAILED then, and its table says why.

    Parameters
    ----------
    *overrides
        Words as on the command line, some of them with several values: ``"optim.lr=0.01,0.1"``.
    config_dir
        A folder of your own groups, as for ``--config-dir``.

    Returns
    -------
    Sweep
        The sweep, which has ended.

    Raises
    ------
    GluonexpError
        No point can be run.
    KeyboardInterrupt
        It was interrupted; its message has the call that goes on with it.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> sweep = gx.sweep("model=mlp", "optim.lr=0.001,0.01")  # doctest: +SKIP
    >>> sweep.best.params["optim.lr"]  # doctest: +SKIP
    0.01
    """
    from gluonexp.api import running

    return running.several(overrides, config_dir)


def runs(
    experiment: str | None = None,
    where: str | None = None,
    uri: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """Return the runs that were recorded, a row each, the newest first.

    The columns are ``run_id``, ``name``, ``experiment``, ``status``, ``started`` (UTC),
    ``seconds``, then every parameter and the last value of every metric by its name. Of a
    parameter named like one of the others, or like a metric, the column is ``params.NAME``. A
    sweep's points are runs; of the sweep itself there is no row.

    Parameters
    ----------
    experiment
        Only those of this experiment.
    where
        A condition on the columns, as for `pandas.DataFrame.query`: ``status == 'FINISHED'``,
        ``started > '2026-01-31'`` (UTC); a name with a dot or a slash stands between backquotes.
    uri
        The store; None: that of ``MLFLOW_TRACKING_URI``, else ``./mlruns/mlflow.db``.
    limit
        At most so many, 1 or more; those that `where` leaves out do not count.

    Raises
    ------
    GluonexpError
        There is no such store or experiment, or `where` is no condition.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> good = gx.runs("digits", where="`val/acc` > 0.9")  # doctest: +SKIP
    >>> good[["name", "optim.lr", "val/acc"]]  # doctest: +SKIP
    """
    from gluonexp.api import listing

    return listing.runs(experiment, where, uri, limit)


def load(model: str | Path | Run | Sweep, runtime: str | None = None) -> Model:
    """Load what a run exported, to classify images with it.

    Parameters
    ----------
    model
        A run or a sweep (its best run), as an object or by name: ``last``, an id or the first 6
        or more characters of one, ``runs:/ID``, perhaps with the path of a folder in it; a
        registered model, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; a logged model,
        ``models:/m-ID``; or the folder of an export.
    runtime
        ``module``, ``onnx``...: those of ``gluonexp predict --runtime``; None: its default.

    Raises
    ------
    GluonexpError
        There is no such model, or the runtime is not installed.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> model = gx.load("last")  # doctest: +SKIP
    >>> model(["one.png", "two.png"])  # doctest: +SKIP
    """
    return Model(model, runtime)


def track(
    name: str,
    params: object = None,
    data: Any = None,
    *,
    uri: str | None = None,
    experiment: str | None = None,
    objective: str | None = None,
    mode: str | None = None,
    offline: bool = False,
    notify: bool | Sequence[str] = False,
) -> TrackedLoop:
    """Record a training loop of your own as a run: ``with gx.track("name") as run:``.

    The run ends as the block does: FINISHED, FAILED with the traceback, or KILLED on Ctrl-C or
    SIGTERM. ``sys.exit()`` is a regular end, ``sys.exit("why")`` a failure; a generator that is
    closed within the block is KILLED. A process that is forked within cannot record. All of it
    goes first into a log in a folder of its own below ``mlruns/hydra``, then to the store. Commit,
    diff, versions, host and the script's command are recorded, secrets hidden. ``gluonexp stop``
    ends the block at the next ``run.log`` by `Stopped`, which the block takes; a loop that asks
    ``run.stopping`` ends by itself.

    Parameters
    ----------
    name
        Of the run.
    params
        A mapping, nested or flat, the arguments of argparse, or a dataclass.
    data
        ``(images, labels)``, a Gluon data set, or a mapping of these by the name of their split:
        its SHA-256, its sizes and samples of images are recorded, of a data set those before its
        transforms. Or the name of the data.
    uri
        The store; None: that of ``MLFLOW_TRACKING_URI``, else ``./mlruns/mlflow.db``.
    experiment
        Of the store; None: ``gluonexp``, as of all runs.
    objective, mode
        The metric that says how good the run is, and ``"min"`` or ``"max"``: what ``gluonexp
        runs``, ``compare`` and the champion of a registered model go by.
    offline
        Send nothing by itself; ``gluonexp push`` does.
    notify
        Tell of the end, as ``callbacks=notify`` does: True for the webhook that the environment's
        ``GLUONEXP_WEBHOOK`` names, or a program and its arguments, which reads JSON.

    Returns
    -------
    TrackedLoop
        With ``log``, ``image``, ``checkpoint``, ``export`` and ``stopping`` in its block, ``id``
        and ``url`` also after it. A notebook shows its run.

    Raises
    ------
    GluonexpError
        An argument is none of these; as the block begins also: two parameters would be recorded
        under one name, or the store cannot be opened.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> with gx.track("mine", params={"lr": 0.1}) as run:  # doctest: +SKIP
    ...     for epoch in range(3):
    ...         run.log({"train/loss": train(net)}, step=epoch)
    ...     run.export(net, images, classes)
    """
    from gluonexp.api.tracked import ShownLoop

    return ShownLoop(
        name,
        params,
        data,
        uri=uri,
        experiment=experiment,
        objective=objective,
        mode=mode,
        offline=offline,
        notify=notify,
    )
