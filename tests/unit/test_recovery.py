"""Runs whose processes are gone: told apart from those at work, ended, and taken back."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from gluonexp.base.errors import GluonexpError
from gluonexp.cli import main
from gluonexp.config.schema import TrackingConfig
from gluonexp.tracking import (
    Tracker,
    end_lost,
    ensure_experiment,
    lease,
    open_store,
    owner,
    tracked_run,
)
from gluonexp.tracking.burial import bury
from gluonexp.tracking.lease import Lease
from gluonexp.tracking.read.runs import PARENT, reader
from gluonexp.tracking.recovery import lost, mention, recover, stop
from gluonexp.tracking.sweeps import SWEEP
from gluonexp.training.callbacks import StopWhenAsked
from gluonexp.training.loop import Fit, StopFit

DEAD = {owner.PROCESS: f"{os.getpid()}@1"}
ELSEWHERE = {owner.HOST: "another"}

FIT = cast(Fit, None)  # nothing of it is looked at

Make = Callable[..., str]


def silent_for(minutes: float) -> dict[str, str]:
    renewed = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return {owner.LEASE: renewed.isoformat()}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return open_store(uri)


@pytest.fixture
def make(client: MlflowClient, uri: str) -> Make:
    """Make a run that is RUNNING, with the tags of this process and others."""

    def made(*more: Mapping[str, str]) -> str:
        tags = owner.own_tags()
        for each in more:
            tags |= each
        experiment = ensure_experiment(client, "unit", uri)
        return str(client.create_run(experiment, tags=tags).info.run_id)

    return made


def ended(uri: str, forced: bool = False) -> dict[str, str]:
    return {found.run.run_id: found.status for found in recover(uri, forced)}


def gluonexp(uri: str, *arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments, "--tracking-uri", uri], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


# --- which are lost ------------------------------------------------------------------------------


def test_a_run_is_lost_with_its_process(make: Make, uri: str, client: MlflowClient) -> None:
    gone, alive = make(DEAD, silent_for(0)), make(silent_for(1000))
    experiment = ensure_experiment(client, "unit", uri)
    foreign = client.create_run(experiment).info.run_id  # another program's
    assert [run.run_id for run in lost(reader(uri))] == [gone]
    assert ended(uri) == {gone: "KILLED"}
    assert ended(uri) == {}
    for run_id in (alive, foreign):
        assert client.get_run(run_id).info.status == "RUNNING"


def test_of_another_host_the_lease_speaks(make: Make, uri: str) -> None:
    fresh = make(ELSEWHERE, silent_for(-60))  # renewed, however slow this is
    silent = make(ELSEWHERE, silent_for(4))
    long_silent = make(ELSEWHERE, silent_for(31))
    without = make(ELSEWHERE)
    assert {run.run_id for run in lost(reader(uri))} == {silent, long_silent}
    assert ended(uri) == {silent: "RUNNING", long_silent: "KILLED"}
    assert ended(uri, forced=True) == {silent: "KILLED", without: "KILLED"}
    assert {run.run_id for run in reader(uri).newest(status="RUNNING")} == {fresh}


def test_a_job_that_waits_is_lost_with_the_process_of_its_sweep(make: Make, uri: str) -> None:
    sweeps = []
    for minutes in (-60, 40):
        lease, leading = silent_for(minutes), owner.leading({**owner.own_tags(), **ELSEWHERE})
        sweeps.append(make(ELSEWHERE, SWEEP, lease, {leading: lease[owner.LEASE]}))
    jobs = [make(ELSEWHERE, {"mlflow.parentRunId": sweep}) for sweep in sweeps]
    taken = make(ELSEWHERE, DEAD, {"mlflow.parentRunId": sweeps[1]})  # by another, once
    assert ended(uri) == {sweeps[1]: "KILLED", jobs[1]: "KILLED"}
    (left,) = (run for run in reader(uri).newest() if run.run_id == taken)
    assert left.status == "RUNNING" and not left.lost


# --- how they end --------------------------------------------------------------------------------


def test_a_run_ends_with_what_it_had_and_when_it_was_last_alive(
    make: Make, uri: str, client: MlflowClient
) -> None:
    run_id = make(DEAD, silent_for(60))
    client.update_run(run_id, name="long")
    client.log_param(run_id, "trainer.epochs", "20")
    for step in (0, 1, 2):
        client.log_metric(run_id, "train/loss", 1.0, step=step)
    client.log_metric(run_id, "train/loss", 1.0, step=2)  # as of a run that was resumed
    before = client.get_run(run_id).info.start_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda now=before / 1000 + 7200: now)
        told = gluonexp(uri, "recover")
    run = client.get_run(run_id)
    process = f"process {os.getpid()} on {run.data.tags[owner.HOST]}"
    assert told == (
        f"run {run_id} (long) KILLED after 3 of 20 epochs: {process} ended without closing it\n"
    )
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == f"{process} ended without closing it"
    assert run.data.tags[owner.BURIED].startswith(process)
    # Two hours have gone by since its start, and three since its last sign of life.
    assert run.info.end_time == before


def test_one_that_came_back_meanwhile_is_left_alone(
    make: Make, uri: str, client: MlflowClient
) -> None:
    back, done = make(DEAD), make(DEAD)
    found = recover(uri)
    assert next(found).run.run_id == done
    client.set_tag(back, owner.PROCESS, owner.own_tags()[owner.PROCESS])
    assert list(found) == []
    assert client.get_run(back).info.status == "RUNNING"


def test_what_has_ended_only_gets_a_reason_where_it_has_none(
    make: Make, client: MlflowClient
) -> None:
    run_id = make()
    client.set_terminated(run_id, "FAILED")
    bury(client, run_id, "first", trace="Traceback")
    bury(client, run_id, "second")
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "first")
    assert owner.BURIED not in run.data.tags
    assert [file.path for file in client.list_artifacts(run_id)] == ["error"]


def test_what_torchrun_lost_is_failed(make: Make, uri: str, client: MlflowClient) -> None:
    run_id = make()
    end_lost(uri, run_id, "rank 0 was lost")
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "rank 0 was lost")


# --- the lease -----------------------------------------------------------------------------------


def start(uri: str, run_id: str | None = None) -> AbstractContextManager[Tracker]:
    return tracked_run(TrackingConfig("mlflow", uri, "unit", run_id=run_id))


def test_a_run_has_a_lease_from_its_start(uri: str, client: MlflowClient) -> None:
    with start(uri) as tracker:
        tags = client.get_run(tracker.run_id).data.tags
        assert owner.silence(tags) is not None
        assert owner.alive(tags)
        assert lost(reader(uri)) == []


def test_an_owner_that_lives_on_takes_its_run_back(
    uri: str, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with start(uri) as tracker:
        bury(client, tracker.run_id, "it was silent for long")
        assert client.get_run(tracker.run_id).info.status == "KILLED"
        another = Lease(client, tracker.run_id)
        with caplog.at_level(logging.WARNING):
            another.look()
            another.look()
        run = client.get_run(tracker.run_id)
        assert run.info.status == "RUNNING"
        assert not {"error", *owner.OF_BURIALS} & run.data.tags.keys()
    assert caplog.text.count("taken for dead") == 1
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_what_was_buried_while_it_slept_ends_as_it_ended(
    uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(uri) as tracker:
        bury(client, tracker.run_id, "it was silent for long")
        monkeypatch.setattr(owner, "EXPIRED_S", -1.0)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert not {"error", *owner.OF_BURIALS} & run.data.tags.keys()


def test_a_store_that_fails_ends_no_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with start(uri) as tracker:
        Lease(client, "0" * 32).look()
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_lease_is_renewed_when_it_is_due(
    make: Make, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = silent_for(1000)
    run_id = make(before)
    ours = Lease(client, run_id)
    for period, same in ((1e9, True), (0.0, False)):
        monkeypatch.setattr(owner, "RENEWED_S", period)
        ours.look()
        tags = client.get_run(run_id).data.tags
        assert (tags[owner.LEASE] == before[owner.LEASE]) == same


# --- told to stop --------------------------------------------------------------------------------


@pytest.fixture
def glances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store be asked at every epoch's end, and be waited for."""
    monkeypatch.setattr(lease, "_GLANCE_S", -1.0)
    monkeypatch.setattr(lease, "_ANSWER_S", 60.0)


@pytest.mark.usefixtures("glances")
def test_a_run_that_is_told_to_stop_does_so_at_the_end_of_its_epoch(
    uri: str, client: MlflowClient
) -> None:
    with start(uri) as tracker:
        callback = StopWhenAsked(tracker)
        callback.epoch_end(FIT)
        told = gluonexp(uri, "stop", str(tracker.run_id)[:8])
        assert told.endswith("stops after the epoch that it is in\n")
        with pytest.raises(StopFit, match=f"`gluonexp stop` by process {os.getpid()} on ") as stop:
            callback.epoch_end(FIT)
        assert stop.value.status == "FINISHED"
    StopWhenAsked(Tracker()).epoch_end(FIT)


@pytest.mark.usefixtures("glances")
def test_one_that_is_resumed_is_not_told_any_more(uri: str, client: MlflowClient) -> None:
    with start(uri) as tracker:
        gluonexp(uri, "stop", str(tracker.run_id))
    with start(uri, str(tracker.run_id)) as tracker:
        StopWhenAsked(tracker).epoch_end(FIT)


@pytest.mark.usefixtures("glances")
def test_a_job_that_waits_can_be_told_to_stop(make: Make, uri: str, client: MlflowClient) -> None:
    run_id = make()
    gluonexp(uri, "stop", run_id)
    with start(uri, run_id) as tracker, pytest.raises(StopFit):
        StopWhenAsked(tracker).epoch_end(FIT)


def test_the_last_is_the_newest_that_trains_and_of_a_sweep_its_parent(
    make: Make, uri: str, client: MlflowClient
) -> None:
    def told() -> set[str]:
        return {run_id for run_id in known if owner.STOP in client.get_run(run_id).data.tags}

    first, parent = make(), make(SWEEP)
    job, ended = make({PARENT: parent}), make({PARENT: parent})
    client.set_terminated(ended)
    known = first, parent, job, ended, make(DEAD)
    said = gluonexp(uri, "stop", "last")
    assert said.splitlines()[0].endswith("stops when the jobs that run have ended")
    assert f"gluonexp stop {parent[:8]} --jobs --tracking-uri " in said
    assert told() == {parent}
    gluonexp(uri, "stop", "last", "--jobs")
    assert told() == {parent, job}
    client.set_terminated(parent)
    gluonexp(uri, "stop", "last")
    assert told() == {parent, job, first}
    client.set_terminated(first)
    with pytest.raises(GluonexpError, match="no run trains in sqlite:"):
        stop(uri, "last")


def test_what_does_not_train_cannot_be_told_to_stop(
    make: Make, uri: str, client: MlflowClient
) -> None:
    gone, done = make(DEAD), make()
    client.set_terminated(done)
    with pytest.raises(GluonexpError, match=f"run {gone} is lost, .* `gluonexp recover`"):
        stop(uri, gone)
    with pytest.raises(GluonexpError, match=f"run {done} does not train: it is FINISHED"):
        stop(uri, done)


# --- where people see them -----------------------------------------------------------------------


def test_a_lost_run_is_listed_as_such(make: Make, uri: str) -> None:
    gone, alive = make(DEAD), make()
    told = gluonexp(uri, "runs")
    assert [line.split()[0] for line in told.splitlines() if " lost " in line] == [gone[:8]]
    assert "gluonexp recover" in told.splitlines()[-1]
    assert alive[:8] in gluonexp(uri, "runs", "--status", "running")
    assert gone[:8] not in gluonexp(uri, "runs", "--status", "running")
    assert alive[:8] not in gluonexp(uri, "runs", "--status", "lost")
    assert '"status": "lost"' in gluonexp(uri, "runs", "--json")
    gluonexp(uri, "recover")
    assert gluonexp(uri, "runs", "--status", "lost") == "there are no such runs\n"
    assert gluonexp(uri, "recover") == "no run is lost\n"


def test_lost_runs_are_mentioned_in_a_line(make: Make, uri: str) -> None:
    settings = TrackingConfig("mlflow", uri, "unit")
    make()
    assert mention(settings) is None
    make(DEAD)
    assert str(mention(settings)).startswith("an earlier run is RUNNING")
    make(DEAD)
    assert str(mention(settings)).startswith("2 earlier runs are RUNNING")
    assert "`gluonexp recover`" in str(mention(settings))
    for silent in ({"experiment": "another"}, {"backend": "none"}):
        assert mention(replace(settings, **silent)) is None


def test_without_a_store_there_is_nothing_to_recover(tmp_path: Path) -> None:
    with pytest.raises(GluonexpError, match="there is no store at"):
        list(recover(f"sqlite:///{tmp_path}/mlflow.db"))
    assert list(tmp_path.iterdir()) == []
