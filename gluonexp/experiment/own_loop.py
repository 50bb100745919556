"""A loop of one's own, recorded as a run of ours: the same ends, log, files and certificate."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from gluonexp.base.errors import GluonexpError, Stopped
from gluonexp.base.files import temporary, write_text
from gluonexp.base.provenance import provenance
from gluonexp.base.secrets import hidden
from gluonexp.base.text import plain_console, readable, tell
from gluonexp.config.schema import ObjectiveConfig
from gluonexp.experiment import own_data, own_ending, own_files, own_values, record, show
from gluonexp.inference import flavor, live
from gluonexp.model_folder.samples import MOST_IMAGES
from gluonexp.tracking import CERTIFICATE_TAG, OWN_LOOP, WORKDIR, Tracker, tracked_run
from gluonexp.tracking.log import NAME
from gluonexp.tracking.notify import telling
from gluonexp.tracking.statuses import FINISHED, Ending
from gluonexp.training import job_folder
from gluonexp.verification import card, certificate
from gluonexp.verification.card import Origin

# How long pictures may wait until they are recorded together, seconds.
_TOGETHER_S: Final = 10.0


class TrackedLoop:
    """What happens in its ``with`` block is one run; see `gluonexp.api.track`.

    Parameters
    ----------
    name
        Of the run.
    params
        A mapping, nested or flat, an `argparse.Namespace` or a dataclass.
    data
        As for `gluonexp.experiment.own_data.read`.
    uri, experiment
        Of the store, and of the experiment there; None for those of every run.
    objective, mode
        The metric that says how good the run is, and whether ``min`` or ``max`` is better.
    offline
        Send nothing by itself: `gluonexp push` does.
    notify
        Who is told of its end, see `gluonexp.experiment.own_values.notified`.
    """

    def __init__(
        self,
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
    ) -> None:
        self._name = own_values.text("name", name)
        self._settings = own_values.settings(self._name, uri, experiment, offline)
        self._goal = own_values.goal(objective, mode)
        self._params, self._data = params, data
        self._notify = own_values.notified(notify)
        self._console = plain_console()
        self._tracker: Tracker | None = None
        self._ended = False
        self._context: AbstractContextManager[None] | None = None
        self._workdir, self._origin = Path(), Origin()
        self._step, self._measured, self._last = 0, False, dict[str, float]()
        self._warned = self._asks = self._exported = self._waiting = False
        self._pictured, self._process = -math.inf, os.getpid()
        self._names: dict[str, object] = {}  # of metrics, by how they are recorded

    # --- what a loop calls ---------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The run's id, 32 hexadecimal digits; the block may have ended."""
        return str(self._begun().run_id)

    @property
    def url(self) -> str | None:
        """The address of the run's page on a server; None for a store that is none.

        The block may have ended.
        """
        return self._begun().link

    @property
    def stopping(self) -> bool:
        """Whether somebody typed ``gluonexp stop`` for the run.

        A loop that asks ends by itself, and can still be exported: `log` raises nothing then.
        """
        self._asks = True
        return self._open().lease.stop_wanted() is not None

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, by names such as ``train/loss``.

        Parameters
        ----------
        metrics
            Numbers, or arrays of NumPy or MXNet with one element (device sync then). What is not
            finite is recorded as NaN, and said once.
        step
            Epoch or iteration, from 0; by default one more than at the last call.

        Raises
        ------
        GluonexpError
            A value is no number, `step` is no whole number from 0 on, or two names would be
            recorded as one, as ``loss*`` and ``loss?``.
        Stopped
            Somebody typed ``gluonexp stop`` for the run. Nothing is lost: `metrics` are recorded.
        """
        tracker = self._open()
        values = own_values.measured(metrics)
        names = own_values.distinct("metrics", metrics, self._names)
        self._step = self._next(step)
        self._names |= names
        self._measured = self._measured or bool(values)
        self._last |= values
        tracker.log_metrics(values, step=self._step)
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong and not self._warned:
            self._warned = True
            name = wrong[0]
            tell(
                self._console,
                f"warning: {name} is {values[name]} at step {self._step}: recorded as NaN, and "
                "the run as diverged",
            )
        if not self._asks and (who := tracker.lease.stop_wanted()) is not None:
            raise Stopped(self.id, who)

    def image(self, name: str, image: Any) -> None:
        """Keep a picture, as ``plots/NAME.png``; one of the same name is replaced.

        Pictures that follow each other within ten seconds are recorded together.

        Parameters
        ----------
        image
            A matplotlib figure, a PIL image, or an array (H, W), (H, W, 1 or 3) or
            (1 or 3, H, W), uint8 or floats from 0 to 1.

        Raises
        ------
        GluonexpError
            It is none of these, or the name is none for a file.
        """
        tracker = self._open()
        own_files.picture(image, self._artifacts / "plots", own_values.picture_name(name))
        self._waiting = True
        if time.monotonic() - self._pictured > _TOGETHER_S:
            self._record(tracker, "plots")

    def checkpoint(self, net: Any) -> None:
        """Keep the network's parameters as they are now, as ``checkpoint/model.params``.

        They replace those kept before; ``meta.json`` tells their step, their digest and what was
        measured last. ``net.load_parameters(file)`` reads them.

        Raises
        ------
        GluonexpError
            They cannot be saved.
        """
        tracker = self._open()
        measured = {name: own_values.plain(value) for name, value in self._last.items()}
        meta = {"step": self._step, "metrics": measured}
        own_files.checkpoint(net, self._artifacts / own_files.CHECKPOINT, meta)
        self._record(tracker, own_files.CHECKPOINT)

    def export(
        self,
        net: Any,
        samples: Any,
        classes: Sequence[str] | None = None,
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        input_shape: Sequence[int | None] | None = None,
        register: str | None = None,
    ) -> None:
        """Write ``export/``: symbol, parameters, signature, samples, and the certificate.

        Parameters
        ----------
        net
            An initialized HybridBlock of float32 with one input and one output, hybridized or
            not; it stays as it is.
        samples
            Some inputs, by which every runtime proves that it says what `net` says: images
            (N, H, W, C) of uint8, what `net` itself takes, a batch with its labels, or a Gluon
            data set (before its transforms). At most 256 are taken.
        classes
            The names of the outputs, in their order; all different.
        mean, std
            Of a network for images, what follows `ToTensor`, from 0 to 1: one number or one for
            each channel. With them `samples` may also be images after these steps, (N, C, H, W).
        input_shape
            Of one input that is no image, if not always that of the samples: ``(None, 64)``.
        register
            Register the model as a new version of this name; the champion is the best by the
            `objective` that the run was given.

        Raises
        ------
        GluonexpError
            The network cannot be kept, or a runtime disagrees. Nothing is left of the export then.
        """
        tracker = self._open()
        given = own_data.inputs(samples, most=MOST_IMAGES)
        with temporary(self._workdir) as place:
            made = place / "export"
            try:
                live.export(
                    *(net, made, given),
                    classes=classes,
                    mean=mean,
                    std=std,
                    sides=input_shape,
                    origin=self._origin,
                )
            except GluonexpError as error:  # as `mlflow_gluon` calls it
                raise GluonexpError(str(error).replace("input_example", "samples")) from error
            proved = certificate.read(made)
            own_files.replace(made, self._artifacts / "export")
        folder = self._artifacts / "export"
        tell(self._console, proved.sentence())
        tracker.log_tags(
            {f"gluonexp.export.{each.runtime}": each.sentence() for each in proved.agreements}
            | {CERTIFICATE_TAG: certificate.digest(folder)}
        )
        self._record(tracker)
        with flavor.model_folder(folder) as model:
            tracker.log_model(model, step=self._step)
        self._exported = True
        if register is not None:
            goal = self._goal or ObjectiveConfig()
            value = None if self._goal is None else self._last.get(goal.metric)
            said = card.description(card.read(folder) or "")
            tracker.register(register, value, goal, said)

    # --- the block -----------------------------------------------------------------------------

    def __enter__(self) -> TrackedLoop:
        if self._context is not None:
            raise GluonexpError(
                f"gx.track({self._name!r}) has been used: each run needs a gx.track of its own"
            )
        exits: list[SystemExit] = []
        self._context = own_ending.leaving(self._recorded(exits), exits)
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._context is not None
        return self._context.__exit__(kind, error, trace)

    @contextmanager
    def _recorded(self, exits: list[SystemExit]) -> Iterator[None]:
        params = own_values.mapping(self._params)
        data = own_data.read(self._data, self._name)
        self._data = None  # it may be large
        origin = provenance()
        self._process = os.getpid()
        self._workdir = own_files.new_folder()
        tags = {**record.tags(origin, (), ""), OWN_LOOP: "true"}
        tags[WORKDIR] = str(self._workdir)
        with (
            telling(self._notify, "run", origin.command) as told,
            tracked_run(self._settings, tags, self._workdir) as tracker,
            job_folder.listed(self._workdir),
        ):
            told.facts |= {"run_id": tracker.run_id, "name": tracker.name, "link": tracker.link}
            told.facts |= {"experiment": self._settings.experiment, "metrics": self._last}
            job_folder.take(self._workdir, tracker.run_id, None)
            record.environment(self._artifacts, origin)
            text = json.dumps(hidden(params), indent=2, ensure_ascii=False)
            write_text(self._artifacts / "config" / "params.json", f"{readable(text)}\n")
            tracker.log_params(params)
            if self._goal is not None:
                tracker.log_params({"objective": dataclasses.asdict(self._goal)})
            if data is not None:
                data.record(tracker, self._artifacts)
            self._origin = own_data.origin(tracker.run_id, origin, data)
            self._record(tracker)
            del data
            self._tracker = tracker
            try:
                with own_ending.seen(tracker, exits):
                    yield
            except Stopped as stopped:
                if stopped.run_id != tracker.run_id:
                    raise
                show.stopped(self._console, f"`gluonexp stop` by {stopped.who}")
            except Exception:
                with suppress(Exception):  # the reason why the loop failed matters more
                    self._draw(tracker)
                raise
            except BaseException:
                if self._waiting and self._is_own:
                    self._record(tracker, "plots")
                raise
            finally:
                self._ended = True
                if self._goal is not None:
                    metric = self._goal.metric
                    told.facts |= {
                        "objective": self._last.get(metric),
                        "objective_metric": metric,
                    }
            self._draw(tracker)
        self._leave(tracker)

    def _leave(self, tracker: Tracker) -> None:
        """Tidy the folder of the run, which is closed; say where it is."""
        if not self._is_own:
            return
        run_id, sent = str(tracker.run_id), tracker.sent
        show.registered(self._console, tracker.registered)
        ending = Ending(FINISHED)
        job_folder.leave(self._workdir, run_id, ending, keep_checkpoints=False, sent=sent)
        show.tracked(
            *(self._console, run_id, FINISHED),
            link=tracker.link,
            uri=self._settings.uri,
            exported=self._exported and sent,
            sent=sent,
        )

    def _draw(self, tracker: Tracker) -> None:
        """Write ``metrics/history.csv``, a row a step, and ``plots/curves.png``."""
        if not self._is_own:
            return
        if self._measured:
            own_files.curves(self._workdir / NAME, self._artifacts, title=self._name)
        self._record(tracker)

    # --- details -------------------------------------------------------------------------------

    @property
    def _artifacts(self) -> Path:
        return self._workdir / job_folder.ARTIFACTS

    def _open(self) -> Tracker:
        if self._ended:
            raise self._closed("the run has ended")
        if not self._is_own:
            raise self._closed("this process was forked from the run's and cannot record")
        return self._begun()

    def _begun(self) -> Tracker:
        if self._tracker is None:
            raise self._closed("the run has not begun")
        return self._tracker

    def _closed(self, why: str) -> GluonexpError:
        return GluonexpError(
            f"gx.track({self._name!r}): {why}; it is open inside of the block "
            f"`with gx.track({self._name!r}) as run:`"
        )

    @property
    def _is_own(self) -> bool:
        """Whether this process began the run: it is no fork."""
        return os.getpid() == self._process

    def _next(self, step: Any) -> int:
        if step is not None:
            return own_values.step(step)
        return own_values.step(self._step + 1) if self._measured else 0

    def _record(self, tracker: Tracker, part: str = "") -> None:
        """Record the files there are, or those of a part."""
        tracker.log_artifacts(self._artifacts / part, part or None)
        if self._waiting and part in ("", "plots"):
            self._waiting, self._pictured = False, time.monotonic()
