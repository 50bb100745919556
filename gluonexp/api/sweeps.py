"""A sweep: its points, the best of them, its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gluonexp.api import html, stored, values
from gluonexp.api.recorded import Run

if TYPE_CHECKING:
    import pandas as pd

    from gluonexp.sweep.outcomes import Summary
    from gluonexp.tracking.read.records import RunRecord
    from gluonexp.tracking.read.runs import Reader

_SHOWN = 20  # points


class Sweep:
    """A recorded sweep.

    While it runs, each look at it reads the store again. In a notebook it shows itself: the
    curves of its points, and their table.

    Parameters
    ----------
    sweep
        ``last``: the one that was begun last. Or its id, or the first 6 or more characters of it;
        or a `Sweep`; or the `Run` of one of its points.
    uri
        The store; None: that of the object, of ``MLFLOW_TRACKING_URI``, or
        ``./mlruns/mlflow.db``.

    Raises
    ------
    GluonexpError
        There is no such sweep, or no store.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> sweep = gx.Sweep("last")  # doctest: +SKIP
    >>> sweep.table[["rank", "optim.lr", "val/acc (best)"]]  # doctest: +SKIP
    >>> sweep.best.model()(["photo.jpg"])  # doctest: +SKIP
    """

    def __init__(self, sweep: str | Sweep | Run = "last", uri: str | None = None) -> None:
        ref, where = stored.named(sweep, "a sweep")
        if isinstance(sweep, Run):
            from gluonexp.tracking.read.records import PARENT

            ref = sweep.tags.get(PARENT, ref)
        self._store: Reader | None = stored.opened(uri or where)
        self._record: RunRecord | None = self._store.parent(ref.removeprefix("runs:/"))
        self._summary: Summary | None = None

    @classmethod
    def of_summary(cls, summary: Summary) -> Sweep:
        """Return the sweep that has ended so; one without a parent run is in no store."""
        if summary.parent_id is not None:
            return cls(summary.parent_id, summary.uri)
        sweep = cls.__new__(cls)
        sweep._store, sweep._record, sweep._summary = None, None, summary
        return sweep

    @property
    def id(self) -> str | None:
        """MLflow's id of the parent run; None with ``tracking=none``."""
        return None if self._record is None else self._record.run_id

    @property
    def status(self) -> str:
        """FINISHED; FAILED if points failed; KILLED, RUNNING; ``lost`` if its process is gone."""
        run = self._now
        if run is not None:
            return run.shown_status
        return "FAILED" if self._ended.problem else "FINISHED"

    @property
    def runs(self) -> list[Run]:
        """All runs of it, in order of their start: several of a point that was tried again."""
        if self._store is None or self._record is None:
            return []
        children = self._store.children(self._record.run_id)
        return [Run.of_record(self._store, child) for child in children]

    @property
    def best(self) -> Run | None:
        """The run of the best point; None while no point has finished with a value."""
        best = self._ended.best()
        if self._store is None or best is None or best.run_id is None:
            return None
        return Run(best.run_id, self._store.uri)

    @property
    def table(self) -> pd.DataFrame:
        """The points, the best first: what varied, the objective, how each ended.

        The columns are those of the artifact ``sweep/results.csv``.
        """
        import pandas as pd

        from gluonexp.sweep.outcomes import table

        summary = self._ended
        headings, *rows = table(summary)
        columns = {name: [row[index] for row in rows] for index, name in enumerate(headings)}
        found: pd.DataFrame = pd.DataFrame(columns)
        for key in summary.varied_keys():
            found[key] = values.column(key, columns[key])
        for key in ("rank", "epoch"):
            found[key] = found[key].astype("Int64")
        return found

    @property
    def report(self) -> Path:
        """The page ``report.html``, a file on this machine, which needs nothing else.

        Raises
        ------
        GluonexpError
            There is none: the sweep is not over, or it was not tracked.
        """
        from gluonexp.base.errors import GluonexpError

        if self._store is None or self._record is None:
            raise GluonexpError("a sweep with tracking=none has no report")
        files = stored.artifacts(self._store, self._record.run_id)
        if not files.has("sweep/report.html"):
            raise GluonexpError(
                f"sweep {self._record.run_id[:8]} has no report yet: it is {self.status}"
            )
        return files.fetch("sweep/report.html", stored.downloads() / self._record.run_id)

    @property
    def url(self) -> str | None:
        """The address of the page that compares its runs; None where the store is no server."""
        from gluonexp.tracking.uri import sweep_link

        if self._store is None or self._record is None or not self._store.uri.startswith("http"):
            return None
        goal = self._ended
        return sweep_link(
            *(self._store.uri, self._record.experiment_id, self._record.run_id),
            *(goal.metric, goal.mode),
        )

    @property
    def uri(self) -> str | None:
        """The store that it is recorded in."""
        return None if self._store is None else self._store.uri

    @property
    def _now(self) -> RunRecord | None:
        """The parent's record, read again while the sweep is not over."""
        from gluonexp.tracking.statuses import UNFINISHED

        if self._store and self._record and self._record.status in UNFINISHED:
            (self._record,) = self._store.fetch([self._record.run_id])
        return self._record

    @property
    def _ended(self) -> Summary:
        """How its points ended, so far."""
        from gluonexp.sweep.ledger import outcomes_of
        from gluonexp.sweep.outcomes import Summary
        from gluonexp.tracking.sweeps import METRIC, MODE, Attempt

        parent = self._now
        if self._store is None or parent is None:
            assert self._summary is not None
            return self._summary
        if self._summary is not None:
            return self._summary
        attempts = sorted(
            map(Attempt, self._store.children(parent.run_id)), key=lambda one: one.job
        )
        metric, mode = parent.tags.get(METRIC, "val/acc"), parent.tags.get(MODE, "max")
        curves = self._store.curves([one.run_id for one in attempts], metric)
        summary = Summary(
            title=parent.name,
            command=f"python -m gluonexp.run -m {parent.tags.get('gluonexp.overrides', '')}",
            metric=metric,
            mode=mode,
            outcomes=outcomes_of(attempts, curves, mode),
            parent_id=parent.run_id,
            experiment_id=parent.experiment_id,
            problem=parent.tags.get("error"),
        )
        from gluonexp.tracking.statuses import UNFINISHED

        if parent.status not in UNFINISHED:
            self._summary = summary
        return summary

    def __repr__(self) -> str:
        from gluonexp.base.text import digits

        summary = self._ended
        best = summary.best()
        told = "" if best is None else f", best {best.name}: {summary.metric}"
        value = "" if best is None else f" {digits(best.objective)}"
        count = len(summary.outcomes)
        points = f"{count} point{'s' * (count != 1)}"
        named = self.id[:8] if self.id else "untracked"
        return f"<Sweep {named} {self.status}, {points}{told}{value}>"

    def _repr_html_(self) -> str:
        from gluonexp.base.text import brief, digits, duration, short_keys
        from gluonexp.report.charts import Line, curves

        summary = self._ended
        ranked, keys, best = summary.ranked(), summary.varied_keys(), summary.best()
        ranks = summary.ranks()
        lines = [
            Line(one.name, one.curve, one is best, "" if one.status == "FINISHED" else one.status)
            for one in ranked
        ]
        headings = ["#", *short_keys(keys), summary.metric, "epoch", "time", "status", "run"]
        rows = [
            [
                str(ranks.get(one.job, "")),
                *(brief(one.varied.get(key, "-")) for key in keys),
                digits(one.objective),
                "-" if one.epoch is None else str(one.epoch),
                duration(one.seconds),
                one.status if one.error is None else f"{one.status}: {one.error}",
                (one.run_id or "-")[:8],
            ]
            for one in ranked[:_SHOWN]
        ]
        more = len(ranked) - len(rows)
        drawn = ""
        if any(line.points for line in lines):
            chart = curves(lines, summary.metric, summary.mode)
            drawn = html.svg(chart.svg, chart.alt)
        where = f"sweep {self.id}; `gluonexp ui --sweep {(self.id or '')[:8]}` compares its runs"
        return html.block(
            html.title(summary.title, f"{self.status}, {len(ranked)} points"),
            html.code(summary.problem) if summary.problem else "",
            drawn,
            html.table(headings, rows, ["#", summary.metric, "epoch", "time"]),
            html.note(f"... {more} more in .table") if more > 0 else "",
            html.link(self.url, "its runs in MLflow") if self.url else "",
            html.note(where) if self.id and not self.url else "",
        )
