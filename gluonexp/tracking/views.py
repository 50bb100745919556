"""The page of MLflow's that compares the runs of a sweep.

Left to itself MLflow draws one small chart for every metric, in alphabetical order, of the first
ten runs. A tag of the experiment, as its own "Share" writes it, holds how the page is to be
instead; a link with the tag's key opens the page so, whatever the browser was set to before, and
does not change that setting.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import is_number
from gluonexp.tracking import internals
from gluonexp.tracking.read.runs import RunRecord, reader
from gluonexp.tracking.sweeps import METRIC, MODE, SWEEP, Attempt
from gluonexp.tracking.uri import metric_column, sweep_link, sweep_runs, view_link
from gluonexp.tracking.values import MAX_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SECTION = "sweep"
_AXES = 6  # of parallel coordinates, the metric's not counted: more are not read


def shown_sweep(client: MlflowClient, ref: str) -> RunRecord:
    """Return the parent run of the sweep to be looked at.

    Parameters
    ----------
    ref
        Its id, the first 6 or more characters of it, or ``last`` for the sweep begun last.

    Raises
    ------
    GluonexpError
        There is no such run, it is no sweep, or it has no runs to be compared.
    """
    return reader(client.tracking_uri).sweep(ref, limit=1)[0]


def sweep_of(client: MlflowClient, run: RunRecord) -> RunRecord | None:
    """Return the parent of the sweep that `run` is a child of; None if it is of no sweep."""
    if run.parent_id is None:
        return None
    try:
        (parent,) = reader(client.tracking_uri).fetch([run.parent_id])
    except GluonexpError:  # it was deleted, or somebody wrote the tag by hand
        return None
    return parent if SWEEP.items() <= parent.tags.items() else None


def share_sweep(client: MlflowClient, base: str, parent: RunRecord) -> str:
    """Return the address that compares the runs of a sweep, on the server at `base`.

    On that page the objective's curve comes first, and large, with a line for every run; beside
    it parallel coordinates and a scatter plot of each number that was varied; then MLflow's own
    charts. Each sweep has one tag in its experiment, which is brought up to date. Where it cannot
    be written the address is that of MLflow's own charts, of the first ten runs. Of more than a
    hundred runs MLflow itself loads the best hundred, and the others on demand.

    Notes
    -----
    A page that is loaded again in the browser, by F5, has MLflow's own charts of the same runs.
    """
    from mlflow.exceptions import MlflowException

    experiment_id, run_id = parent.experiment_id, parent.run_id
    metric = parent.tags.get(METRIC, "val/acc")
    mode = parent.tags.get(MODE, "max")
    axes = _axes(reader(client.tracking_uri).children(run_id))
    state = json.dumps(_state(run_id, metric, mode, axes), separators=(",", ":"))
    if len(state) <= MAX_TAG:
        try:
            client.set_experiment_tag(experiment_id, internals.VIEW_TAG + run_id, state)
            return view_link(base, experiment_id, run_id)
        except MlflowException:  # the store may be one that is only read
            pass
    return sweep_link(base, experiment_id, run_id, metric, mode)


def _axes(runs: Sequence[RunRecord]) -> dict[str, bool]:
    """Return the parameters that vary over the runs, and whether they are numbers.

    What was varied are override keys: `optim=adam,sgd` is seen in the parameter `optim.name`. A
    parameter that some run does not have is none for an axis.
    """
    recorded = [run.params for run in runs if run.params]  # one may have failed before
    keys = dict.fromkeys(key for run in runs for key in Attempt(run).varied)
    axes: dict[str, bool] = {}
    for key in keys:
        for name in recorded[0] if recorded else ():
            if name != key and not name.startswith(f"{key}."):
                continue
            values = {params[name] for params in recorded if name in params}
            if len(values) > 1 and all(name in params for params in recorded):
                axes[name] = all(map(is_number, values))
    return dict(list(axes.items())[:_AXES])


def _state(run_id: str, metric: str, mode: str, axes: dict[str, bool]) -> dict[str, Any]:
    """Return the page's state as MLflow 3.17.2 keeps it, whole: some versions fill nothing in."""
    section = {"uuid": _SECTION, "name": _SECTION, "display": True, "isReordered": True}
    cards = [
        _card(
            "LINE",
            "curves",
            metricKey=metric,
            selectedMetricKeys=[metric],
            lineSmoothness=0,
            xAxisKey="step",
            xAxisScaleType="linear",
            scaleType="linear",
            range={},
            selectedXAxisMetricKey="",
            yAxisKey="metric",
            yAxisExpressions=[],
            ignoreOutliers=False,
            useGlobalXaxisKey=True,
            useGlobalLineSmoothing=True,
        )
    ]
    if axes:
        chosen = {"selectedParams": list(axes), "selectedMetrics": [metric]}
        cards.append(_card("PARALLEL", "parallel", **chosen, showAllRuns=False))
    for name in (name for name, numeric in axes.items() if numeric):
        x, y = {"key": name, "type": "PARAM"}, {"key": metric, "type": "METRIC"}
        cards.append(_card("SCATTER", f"scatter {name}", xaxis=x, yaxis=y))
    return {
        "searchFilter": sweep_runs(run_id),
        "orderByKey": metric_column(metric),
        "orderByAsc": mode == "min",
        "runsHiddenMode": "SHOW_ALL",
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsPinned": [],
        "runsExpanded": {},
        "selectedColumns": [f"params.`{name}`" for name in axes] + [metric_column(metric)],
        "columnOrder": [],
        "columnWidths": {},
        "compareRunSections": [{**section, "columns": 2, "cardHeight": 420}],
        "compareRunCharts": cards,
        "isAccordionReordered": True,  # or the sections are sorted by name
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _card(kind: str, name: str, **settings: object) -> dict[str, object]:
    common = {"uuid": name, "type": kind, "metricSectionId": _SECTION, "runsCountToCompare": 100}
    return {**common, "deleted": False, "isGenerated": False, **settings}
