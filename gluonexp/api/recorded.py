"""One run: what was asked for, what came of it, how it went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gluonexp.api import html, stored, values
from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from gluonexp.api.model import Model
    from gluonexp.api.sweeps import Sweep
    from gluonexp.tracking.artifacts import Artifacts
    from gluonexp.tracking.read.records import RunRecord
    from gluonexp.tracking.read.runs import Reader

# Not by epoch: by step, by the clock, or measured once.
_NOT_BY_EPOCH: Final = ("batch/", "system/", "test/", "lr_find/", "time/startup")
# Of no interest to a reader of results.
_ASIDE: Final = ("batch/", "system/", "time/", "optim/")
# In a loop of one's own nothing is either, but what MLflow measures by itself.
_OF_MLFLOW: Final = ("system/",)
_SHOWN: Final = 20  # metrics


class Run:
    """A recorded run.

    While it trains, each look at it reads the store again. In a notebook it shows itself: its
    curves, its metrics, where it is.

    Parameters
    ----------
    run
        ``last``: the one that was the last to end FINISHED with a model. Or its id, the first 6
        or more characters of that, ``runs:/ID``; ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``:
        the run that made this model; or a `Run`. A sweep, also as an object, means its best run.
    uri
        The store; None: that of the object, of ``MLFLOW_TRACKING_URI``, or
        ``./mlruns/mlflow.db``.

    Raises
    ------
    GluonexpError
        There is no such run, or no store.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> run = gx.Run("last")  # doctest: +SKIP
    >>> run.curve("val/acc").max()  # doctest: +SKIP
    0.9875
    >>> run.file("plots/curves.png")  # doctest: +SKIP
    PosixPath('/home/me/mlruns/artifacts/default/3f2a.../artifacts/plots/curves.png')
    """

    def __init__(self, run: str | Run | Sweep = "last", uri: str | None = None) -> None:
        ref, where = stored.named(run, "a run")
        store = stored.opened(uri or where)
        self._take(store, stored.record_of(store, ref))

    @classmethod
    def of_record(cls, store: Reader | None, record: RunRecord, folder: Path | None = None) -> Run:
        """Return the run of a record; one that no store has lies in the folder of its job."""
        run = cls.__new__(cls)
        run._take(store, record, folder)
        return run

    @classmethod
    def untracked(
        cls,
        folder: Path,
        status: str,
        metrics: dict[str, float],
        history: list[dict[str, float]],
    ) -> Run:
        """Return a run that was not tracked, whose files are in the folder of its job."""
        from datetime import datetime, timezone

        from gluonexp.tracking.read.records import RunRecord

        now = datetime.now(timezone.utc)
        record = RunRecord("", folder.name, status, "untracked", "", now, metrics=metrics)
        run = cls.of_record(None, record, folder)
        run._rows = history
        return run

    def _take(self, store: Reader | None, record: RunRecord, folder: Path | None = None) -> None:
        self._store, self._record, self._folder = store, record, folder
        self._rows: list[dict[str, float]] | None = None  # of a run that no store has

    @property
    def id(self) -> str | None:
        """MLflow's id, 32 hex digits; None with ``tracking=none``."""
        return self._record.run_id or None

    @property
    def name(self) -> str:
        """The name it was given, or was made up for it."""
        return self._now.name

    @property
    def experiment(self) -> str:
        """The name of its experiment."""
        return self._now.experiment

    @property
    def status(self) -> str:
        """FINISHED, PRUNED, FAILED, KILLED, RUNNING; ``lost`` if its process is gone."""
        return self._now.shown_status

    @property
    def started(self) -> datetime:
        """When it began, in UTC."""
        return self._now.start

    @property
    def seconds(self) -> float:
        """How long it took, NaN while it runs."""
        return self._now.seconds

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric.

        Those of ``test/`` belong to the best checkpoint, unless the loop was one's own.
        """
        return dict(self._now.metrics)

    @property
    def params(self) -> dict[str, values.Value]:
        """Each parameter, as the number, the text, true, false or None that it was."""
        return {key: values.typed(key, text) for key, text in self._now.params.items()}

    @property
    def tags(self) -> dict[str, str]:
        """The tags: who, where, from which code, and why it failed (``error``)."""
        return dict(self._now.tags)

    @property
    def history(self) -> pd.DataFrame:
        """The metrics of each epoch: a row an epoch, a column a metric.

        What was measured once, as all of ``test/``, is in `metrics` alone. Of a loop of one's
        own, `gluonexp.api.track`, there is a row for each step that it logged, and every metric.
        """
        import pandas as pd

        if self._rows is not None:
            rows = pd.DataFrame(self._rows, columns=None if self._rows else ["epoch"])
            table: pd.DataFrame = rows.astype({"epoch": int}).set_index("epoch")
            return table
        names = [name for name in self._now.metrics if not name.startswith(self._not_by_epoch)]
        curves = {name: dict(self._points(name)) for name in names}
        longest = max(map(len, curves.values()), default=0)
        least = 1 if self._own_loop or longest == 1 else 2
        kept = [name for name in names if len(curves[name]) >= least]
        epochs = sorted({epoch for name in kept for epoch in curves[name]})
        table = pd.DataFrame(
            {name: [curves[name].get(epoch) for epoch in epochs] for name in kept},
            index=pd.Index(epochs, name="epoch", dtype="int64"),
            dtype="float64",
        )
        return table

    def curve(self, metric: str) -> pd.Series[float]:
        """Return a metric by epoch; one of ``batch/`` or ``system/``, by its own steps.

        Of a loop of one's own "epoch" is the step that it logged, whatever the metric.

        Raises
        ------
        GluonexpError
            The run has no such metric.
        """
        import pandas as pd

        points = self._points(metric)
        if not points:
            from gluonexp.base.text import listed

            there = listed(values.by_split(self.metrics)) or "none at all"
            raise GluonexpError(f"{self._title} has no metric {metric}; it has {there}")
        steps, heights = zip(*points, strict=True)
        named = "step" if metric.startswith(self._not_by_epoch) else "epoch"
        index = pd.Index(steps, name=named)
        curve: pd.Series[float] = pd.Series(heights, index, name=metric, dtype="float64")
        return curve

    @property
    def files(self) -> list[str]:
        """The paths of its artifacts, for `file`."""
        return [file.path for file in self._artifacts.files()]

    def file(self, path: str | os.PathLike[str]) -> Path:
        """Return where a file, or a folder, of its artifacts lies on this machine.

        What lies elsewhere is copied to a temporary folder, which goes when the process does.

        Raises
        ------
        GluonexpError
            It has no such file, or the store cannot be read.
        """
        if not isinstance(path, str | os.PathLike):
            raise GluonexpError(f"{path!r} is no path; .files lists those there are")
        inside = Path(path).as_posix() if path else ""
        return self._artifacts.fetch(inside, stored.downloads() / (self.id or "untracked"))

    def model(self, runtime: str | None = None) -> Model:
        """Return what it exported, loaded: as `gluonexp.api.load` does."""
        from gluonexp.api.model import Model

        return Model(self, runtime)

    @property
    def url(self) -> str | None:
        """The address of its page on MLflow's server; None where the store is no server.

        ``gluonexp ui`` shows the runs of a store in a file.
        """
        from gluonexp.tracking.uri import run_link

        if self._store is None or not self._store.uri.startswith("http"):
            return None
        return run_link(self._store.uri, self._record.experiment_id, self._record.run_id)

    @property
    def uri(self) -> str | None:
        """The store that it is recorded in."""
        return None if self._store is None else self._store.uri

    @property
    def folder(self) -> Path | None:
        """The folder of its job, where that is known: with its log, and checkpoints that stay."""
        place = self._record.workdir
        return self._folder or (Path(place) if place else None)

    @property
    def _now(self) -> RunRecord:
        """The record, read again while the run is not over."""
        from gluonexp.tracking.statuses import UNFINISHED

        if self._store is not None and self._record.status in UNFINISHED:
            (self._record,) = self._store.fetch([self._record.run_id])
        return self._record

    @property
    def _artifacts(self) -> Artifacts:
        from gluonexp.tracking.artifacts import Artifacts

        if self._store is None:
            return Artifacts(f"{self._folder}/artifacts", None, self._title, None)
        return stored.artifacts(self._store, self._record.run_id)

    @property
    def _title(self) -> str:
        return f"run {self.id[:8]}" if self.id else f"the run in {self._folder}"

    @property
    def _own_loop(self) -> bool:
        from gluonexp.tracking.read.records import OWN_LOOP

        return OWN_LOOP in self._record.tags

    @property
    def _not_by_epoch(self) -> tuple[str, ...]:
        return _OF_MLFLOW if self._own_loop else _NOT_BY_EPOCH

    def _points(self, metric: str) -> list[tuple[int, float]]:
        if self._store is not None:
            run_id = self._record.run_id
            return self._store.curves([run_id], metric)[run_id]
        found = [(int(row["epoch"]), row[metric]) for row in self._rows or [] if metric in row]
        return found or [(0, self.metrics[metric])] * (metric in self.metrics)

    def __repr__(self) -> str:
        from gluonexp.base.text import digits

        run, names = self._now, values.by_split(self._now.metrics)
        shown = [name for name in names if name.endswith("/acc")][:3] or names[:3]
        told = ", ".join(f"{name} {digits(run.metrics[name])}" for name in shown)
        ending = f": {told}" if told else ""
        named = self.id[:8] if self.id else "untracked"
        return f"<Run {named} {run.name!r} {run.shown_status}{ending}>"

    def _repr_html_(self) -> str:
        from gluonexp.base.better import best_of
        from gluonexp.base.text import digits, duration
        from gluonexp.compare.comparison import direction

        run, history = self._now, self.history
        rows = []
        for name in values.by_split(run.metrics)[:_SHOWN]:
            if name.startswith(_OF_MLFLOW if self._own_loop else _ASIDE):
                continue
            points = [] if name not in history else [*history[name].dropna().items()]
            best = best_of([(int(str(at)), value) for at, value in points], direction([run], name))
            of_best = (digits(best[1]), str(best[0])) if best else ("", "")
            rows.append([name, digits(run.metrics[name]), *of_best])
        asked = run.tags.get("gluonexp.overrides")
        error = run.tags.get("error")
        took = "" if run.seconds != run.seconds else f", {duration(run.seconds)}"
        headings = ["metric", "last", "best", "in epoch"]
        return html.block(
            html.title(run.name or self._title, f"{run.experiment}, {run.shown_status}{took}"),
            html.code(error) if error else "",
            self._drawn(history),
            html.table(headings, rows, headings[1:]) if rows else "",
            html.code(asked) if asked else "",
            html.link(self.url, "this run in MLflow") if self.url else html.note(self._where),
        )

    @property
    def _where(self) -> str:
        return f"run {self.id}; `gluonexp ui` shows it" if self.id else f"in {self._folder}"

    def _drawn(self, history: pd.DataFrame) -> str:
        title = self._record.params.get("data.title") or self._record.name or self._title
        if self._own_loop and len(history.columns):
            from gluonexp.report.series import drawn

            table = history.rename_axis("step").reset_index()
            return html.picture(drawn(table, title).png(), f"metrics by step, steps: {len(table)}")
        if not {"train/loss", "val/loss", "train/acc", "val/acc"} & set(history):
            return ""
        from gluonexp.report.plots import drawn_curves

        alt = f"loss and accuracy by epoch, {len(history)} epochs"
        return html.picture(drawn_curves(history.reset_index(), title).png(), alt)
