"""The search: what is asked and told, by one process and by several at once."""

import json
import math
import platform
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import psutil
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlflow import MlflowClient

from gluonexp import assembly
from gluonexp.assembly import engines, networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import mx, nn
from gluonexp.data.types import Split
from gluonexp.sweep import pruning, space
from gluonexp.sweep.study import storage as studies
from gluonexp.sweep.study.dimensions import Choice, Number
from gluonexp.sweep.study.place import Place, chosen, place
from gluonexp.sweep.study.reporter import open_trial
from gluonexp.sweep.study.search import ATTEMPTS, open_study
from gluonexp.sweep.study.turns import Turns, own
from gluonexp.tracking.statuses import FAILED, FINISHED, PRUNED, Ending
from gluonexp.training import callbacks, checkpoint, loop

X = {"x": Number(0.0, 1.0)}


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "sweep" / "study.journal"


def opened(journal, searched=None, **changed):
    settings = {"metric": "val/acc", "mode": "max", "n_trials": 20, "seed": 3} | changed
    return open_study(place(str(journal)), "lr", searched or X, **settings)


def told(study, worth, count=None):
    """Ask, measure and tell `count` points, or all; return their numbers and parameters."""
    points = []
    while (count is None or len(points) < count) and (trial := study.ask()) is not None:
        study.tell(trial.number, FINISHED, worth(float(trial.params["x"])))
        points.append((trial.number, dict(trial.params)))
    return points


def near(x):
    return -abs(x - 0.3)


def test_a_search_ends_after_its_trials_and_finds_the_best(journal):
    study = opened(journal)
    points = told(study, near)
    assert [number for number, _ in points] == list(range(20))
    assert study.ask() is None
    assert states(journal) == Counter(complete=20)
    assert max(near(float(params["x"])) for _, params in points) > -0.01


def test_the_same_seed_and_results_give_the_same_points(journal, tmp_path):
    points = told(opened(journal), near, count=10)
    less = opened(tmp_path / "less", mode="min")
    assert told(less, lambda x: -near(x), count=10) == points
    worst = opened(tmp_path / "worst", mode="min")
    begin = told(worst, near, count=10)
    assert begin[:6] == points[:6]  # drawn before anything is known
    assert begin[6:] != points[6:]
    assert told(opened(tmp_path / "other", seed=4), near, count=1) != points[:1]


def test_a_search_that_is_cut_off_goes_on_as_if_it_had_not_been(journal, tmp_path):
    points = told(opened(journal), near)
    halves = [told(opened(tmp_path / "two"), near, count=count) for count in (9, None)]
    assert halves[0] + halves[1] == points
    # More trials are more points of the same search.
    assert [number for number, _ in told(opened(journal, n_trials=22), near)] == [20, 21]


def test_what_is_chosen_is_an_override_that_hydra_reads(journal):
    parser = OverridesParser.create()
    words = [
        "optim.lr=interval(1e-4,1e-1)",
        "model=cnn,'a b'",
        "optim.momentum=range(0.5,1,0.1)",
        "trainer.batch_size=int(interval(8,1024))",
        "seed=range(10,0,-3)",
        "+extra=null,[1,{a: 2}]",
    ]
    searched, _ = space.parse(parser.parse_overrides(words))
    study = opened(journal, searched, n_trials=12)
    rates = []
    while (trial := study.ask()) is not None:
        words_of_it = [f"{key}={text}" for key, text in trial.params.items()]
        overrides = parser.parse_overrides(words_of_it)
        assert [override.get_key_element() for override in overrides] == list(searched)
        lr, model, momentum, size, seed, extra = (override.value() for override in overrides)
        assert 1e-4 <= lr <= 1e-1
        assert model in ("cnn", "a b")
        assert momentum in list(parser.parse_override(words[2]).sweep_iterator())
        assert type(size) is int
        assert 8 <= size <= 1024
        assert seed in (10, 7, 4, 1)
        assert extra in (None, [1, {"a": 2}])
        rates.append(lr)
        study.tell(trial.number, FINISHED, -abs(math.log10(lr) + 2))
    assert len(rates) == 12
    assert sorted(rates)[4] < 10**-1.5  # evenly on a log scale: not all in the upper decade


WORKER = """
import json, sys
from contextlib import closing
from gluonexp.sweep.study.dimensions import Number
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.reporter import open_trial
from gluonexp.sweep.study.search import ATTEMPTS, open_study
from gluonexp.tracking.statuses import FINISHED

shared, n_trials, made, me = place(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
print("ready", flush=True)
sys.stdin.readline()
with closing(open_study(
    shared, "lr", {"x": Number(0.0, 1.0)}, metric="val/acc", mode="max", n_trials=n_trials
)) as study:
    def create():
        with open(made, "a") as file:
            file.write(me)
        return me

    parent = study.parent(create)
    numbers = []
    while (trial := study.ask()) is not None:
        reporter = open_trial(shared, "lr", trial.number, "none", 3)
        for epoch in range(3):
            assert not reporter.report(float(trial.params["x"]), epoch)
        study.tell(trial.number, FINISHED, float(trial.params["x"]))
        numbers.append(trial.number)
print(json.dumps({"parent": parent, "numbers": numbers}))
"""


def started(script, *arguments):
    """Start a process that says when it is ready, and waits for a line then."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline()


PROXY = """
import sys, optuna
from optuna.storages import get_storage, run_grpc_proxy_server
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = get_storage(sys.argv[1])
print("ready", flush=True)
run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.fixture
def proxy(tmp_path):
    """The address of Optuna's proxy of a database, and its process."""
    pytest.importorskip("grpc", reason="no grpcio: pip install 'gluonexp[grpc]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process, _ = started(PROXY, f"sqlite:///{tmp_path}/study.db", port)
    yield f"grpc://127.0.0.1:{port}", process
    killed(process)


@pytest.fixture
def shared(request, tmp_path):
    """Where a study is that processes share, of each kind."""
    if request.param == "journal":
        return str(tmp_path / "sweep" / "study.journal")
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sweep/study.db"
    if request.param == "postgresql":
        return request.getfixturevalue("postgres")
    return request.getfixturevalue("proxy")[0]


@pytest.mark.parametrize("shared", ["journal", "postgresql", "grpc"], indirect=True)
def test_processes_that_share_a_study_share_its_trials_and_its_parent(shared, tmp_path):
    # A database takes more time for each.
    names, n = ("ab", 6) if "://" in shared else ("abc", 24)
    made = tmp_path / "made"
    workers = [started(WORKER, shared, n, made, name)[0] for name in names]
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [json.loads(worker.communicate(timeout=100)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(names)
    assert sorted(number for answer in answers for number in answer["numbers"]) == list(range(n))
    assert len(made.read_text()) == 1
    assert {answer["parent"] for answer in answers} == {made.read_text()}
    late = opened(shared, n_trials=n)
    assert late.parent(lambda: pytest.fail("a second parent")) == made.read_text()
    assert late.ask() is None
    trials = optuna.load_study(study_name="lr", storage=storage(shared)).trials
    assert all(set(trial.intermediate_values.values()) == {trial.value} for trial in trials)
    assert len({trial.params["x"] for trial in trials}) == n
    late.close()


def test_where_a_study_is_follows_from_where_runs_are_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server, database = "http://host:5000", "postgresql://me:secret@host/runs"
    own = Path("study.journal")
    file = Place(str(tmp_path / own))
    for uri in (None, "sqlite:///runs.db"):
        assert chosen(None, uri, True, own) == file
    assert chosen(None, database, True, own) == Place(database)
    assert "secret" not in chosen(None, database, True, own).shown
    for uri in (server, "mysql://host/runs"):
        assert chosen(None, uri, True, own) == replace(file, apart=True)
    for uri in (server, database):
        assert chosen(None, uri, False, own) == file  # tracking=none
        assert chosen("grpc://host:1", uri, True, own) == Place("grpc://host:1")
        assert chosen("x.journal", uri, True, own) == Place(str(tmp_path / "x.journal"))
    assert place("sqlite:///x.db").name == f"sqlite:///{tmp_path}/x.db"
    assert place("sqlite:///x.db").file == tmp_path / "x.db"


@pytest.mark.parametrize("name", ["shared/sweep/study.journal", "sqlite:///shared/x.db"])
def test_a_file_on_a_network_disk_is_refused(name, tmp_path, monkeypatch):
    def mounted(kind):
        disks = {"/": "ext4", str(tmp_path / "shared"): kind}
        found = [SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in disks.items()]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)

    monkeypatch.chdir(tmp_path)
    for kind in ("nfs4", "cifs", "lustre", "fuse.sshfs"):
        mounted(kind)
        with pytest.raises(GluonexpError, match=rf"is on a network disk \({kind}\).*storage="):
            place(name)
    for kind in ("xfs", "tmpfs", "fuse.fuse-overlayfs"):
        mounted(kind)
        assert place(name).file.is_relative_to(tmp_path)


def test_mlflow_and_studies_live_in_one_database(postgres):
    store = MlflowClient(postgres)
    run = store.create_run(store.create_experiment("x")).info.run_id
    assert told(opened(postgres, n_trials=2), near) != []
    assert told(opened(postgres, n_trials=3), near)[0][0] == 2
    store.log_metric(run, "a", 1.0)
    assert MlflowClient(postgres).get_run(run).data.metrics == {"a": 1.0}
    with pytest.raises(GluonexpError, match=r"keeps MLflow's runs.*another database") as error:
        opened(f"{postgres}?options=-csearch_path%3Dpublic")
    assert postgres.split(":")[2].split("@")[0] not in str(error.value)


def test_a_database_that_does_not_answer_is_told(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(GluonexpError, match=r"\*\*\*@127.*cannot be read or written") as error:
            opened(f"postgresql://me:secret@{address}/x")
    assert "secret" not in str(error.value)
    for wrong in ("postgresql://me:secret@host:port/x", "postgresql://me:secret/more@host/x"):
        with pytest.raises(GluonexpError, match="is no address: write one as") as error:
            opened(wrong)
        assert "secret" not in str(error.value)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(GluonexpError, match=r"psycopg is not installed: .*gluonexp\[postgres\]"):
        opened("postgresql+psycopg://host/x")


def test_training_goes_on_while_the_study_cannot_be_reached(proxy, caplog):
    address, process = proxy
    study = opened(address)
    number = study.ask().number
    reporter = trial_of(address, number, "asha")
    assert not reporter.report(0.5, 0)
    killed(process)
    assert not reporter.report(0.5, 1)
    assert "epoch 1 is not reported: grpc://127.0.0.1" in caplog.text
    with pytest.raises(GluonexpError, match="cannot be read or written"):
        study.tell(number, FINISHED, 0.5)
    study.close()


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
def test_a_process_of_another_host_is_dead_after_half_an_hour_of_silence(shared, monkeypatch):
    with monkeypatch.context() as there:
        there.setattr(platform, "node", lambda: "elsewhere")
        gone = opened(shared)
        first = gone.ask()
    study = opened(shared)
    assert study.ask().number == 1
    [lease] = (key for key in study._study.user_attrs if "elsewhere" in key)
    for minutes, number in ((5, 2), (31, 0)):
        before = datetime.now(timezone.utc) - timedelta(minutes=minutes)
        study._study.set_user_attr(lease, before.isoformat())
        again = study.ask()
        assert again.number == number
    assert again.params == first.params
    gone.close()
    study.close()


def test_nobody_waits_for_the_turn_of_a_process_that_is_gone(journal, monkeypatch):
    turns = Turns(storage(journal), "lr")

    def waits(**changed):
        turns._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                user_attrs={"ticket": "x", "owner": own() | changed},
            )
        )

    waits(process="1@1")
    with turns:
        waits(process="1@1")  # who comes later
    monkeypatch.setattr("gluonexp.sweep.study.turns.EXPIRED_S", 0.0)
    waits(host="elsewhere")
    with turns:
        pass


def storage(journal):
    return studies.opened(place(str(journal)))


def states(journal):
    trials = optuna.load_study(study_name="lr", storage=storage(journal)).trials
    return Counter(trial.state.name.lower() for trial in trials)


HOLDER = """
import sys
from gluonexp.sweep.study.dimensions import Number
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.search import open_study

study = open_study(
    place(sys.argv[1]), "lr", {"x": Number(0.0, 1.0)}, metric="val/acc", mode="max", n_trials=20
)
trial = study.ask()
print(trial.number, trial.params["x"], flush=True)
sys.stdin.readline()
"""


def killed(process):
    process.kill()
    process.communicate(timeout=100)


@pytest.mark.parametrize("shared", ["journal", "sqlite", "postgresql"], indirect=True)
def test_the_trial_of_a_process_that_died_is_taken_over(shared):
    holder, said = started(HOLDER, shared)
    number, x = said.split()
    study = opened(shared)
    mine = study.ask()
    assert (int(number), mine.number) == (0, 1)  # it is alive, and so is its trial
    killed(holder)
    again = study.ask()
    assert (again.number, again.params) == (0, {"x": x})
    assert study.ask().number == 2


def test_a_trial_that_takes_its_process_down_each_time_has_failed(journal):
    for _ in range(ATTEMPTS):
        holder, said = started(HOLDER, journal)
        assert said.split()[0] == "0"
        killed(holder)
    study = opened(journal)
    assert study.ask().number == 1
    assert states(journal) == Counter(fail=1, running=1)


def test_what_a_sweep_did_not_tell_is_handed_back_when_it_ends(journal):
    def interrupted():
        with closing(opened(journal)) as study:
            study.tell(study.ask().number, FINISHED, 1.0)
            left.append(study.ask())
            raise KeyboardInterrupt

    left = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    study = opened(journal)
    for _ in range(2 * ATTEMPTS):  # no process died: it can happen any number of times
        again = study.ask()
        assert (again.number, again.params) == (1, left[0].params)
        study.close()
    assert [study.ask().number, study.ask().number] == [1, 2]


def test_a_trial_left_before_its_point_was_chosen_does_not_count(journal):
    opened(journal)
    left = optuna.load_study(study_name="lr", storage=storage(journal)).ask()
    assert left.number == 0
    study = opened(journal, n_trials=2)
    assert [number for number, _ in told(study, near)] == [1, 2]
    assert study.left() == 0


def test_failed_points_can_be_tried_again(journal):
    study = opened(journal, n_trials=3)
    first = [study.ask() for _ in range(3)]
    study.tell(0, FINISHED, 0.5)
    study.tell(1, FAILED)
    study.tell(2, PRUNED)
    assert study.ask() is None
    assert states(journal) == Counter(complete=1, fail=1, pruned=1)

    again = opened(journal, n_trials=3)
    again.retry_failed()
    assert states(journal) == Counter(complete=1, fail=1, pruned=1, waiting=1)
    trial = again.ask()
    assert (trial.number, trial.params) == (3, first[1].params)
    assert again.ask() is None
    again.tell(3, FAILED)
    assert states(journal) == Counter(complete=1, fail=2, pruned=1)
    again.retry_failed()
    assert again.ask().params == first[1].params


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_trial_without_a_number_has_failed(journal, value):
    study = opened(journal)
    study.tell(study.ask().number, FINISHED, value)
    assert states(journal) == Counter(fail=1)


def test_the_first_answer_counts(journal):
    study = opened(journal)
    study.tell(study.ask().number, FINISHED, 0.5)
    study.tell(0, FINISHED, 0.9)
    study.tell(0, FAILED)
    [trial] = optuna.load_study(study_name="lr", storage=storage(journal)).trials
    assert (trial.state.name, trial.value) == ("COMPLETE", 0.5)


def test_a_study_is_of_one_objective_and_of_values_that_compare(journal, tmp_path):
    told(opened(journal, {"x": Choice(("1", "2")), "y": Number(0.0, 1.0)}), float, count=1)
    wide = {"x": Choice(("1", "2")), "y": Number(0.0, 9.0), "z": Number(1, 2)}
    assert opened(journal, wide).ask().params.keys() == wide.keys()
    for changed, message in (
        ({"metric": "val/loss"}, r"val/loss \(max\): the study looks for val/acc \(max\)"),
        ({"mode": "min"}, r"val/acc \(min\): the study looks for val/acc \(max\)"),
        ({"searched": {"x": Choice(("1", "3"))}}, "x: the study did not search one of 1, 3"),
        ({"searched": {"x": Number(1, 2)}}, "x: the study did not search a whole number from 1"),
    ):
        with pytest.raises(GluonexpError, match=f"{message}.*; give this one another name"):
            opened(journal, **changed)
    with pytest.raises(GluonexpError, match="mode=best: choose min or max"):
        opened(journal, mode="best")
    with pytest.raises(GluonexpError, match="nothing to search"):
        open_study(place(str(journal)), "lr", {}, metric="a", mode="max", n_trials=1)


@pytest.mark.parametrize("content", ["no journal\n", "{}\n", "[1]\n", "3", '{"op'])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(GluonexpError, match=r"notes.txt is damaged, or no journal of a study"):
        opened(path)
    assert path.read_text() == content


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(GluonexpError, match=r"study's journal cannot be opened"):
        opened(tmp_path / "file" / "study.journal")


def test_optuna_is_quiet_and_left_as_it_was(journal, capfd):
    before = optuna.logging.get_verbosity()
    told(opened(journal), near, count=2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def trial_of(journal, number, pruner, epochs=20):
    return open_trial(place(str(journal)), "lr", number, pruner, epochs)


def measured(journal, values, mode="max"):
    """Begin a study of trials, each complete with its value in all of its 20 epochs, and one."""
    study = opened(journal, mode=mode)
    for value in values:
        number = study.ask().number
        reporter = trial_of(journal, number, "none")
        assert not any(reporter.report(value, epoch) for epoch in range(20))
        study.tell(number, FINISHED, value)
    return study.ask().number


REPORTER = """
import json, sys
from gluonexp.sweep.study.place import place
from gluonexp.sweep.study.reporter import open_trial

reporter = open_trial(place(sys.argv[1]), "lr", int(sys.argv[2]), sys.argv[3], 20)
print(json.dumps([reporter.report(float(sys.argv[4]), epoch) for epoch in range(5)]))
"""


def test_another_process_hears_that_its_trial_is_not_worth_more(journal):
    number = measured(journal, [0.5, 0.6, 0.7])
    command = [sys.executable, "-c", REPORTER, journal, str(number), "median", "0.4"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    assert json.loads(said.stdout) == [False, False, True, True, True]  # a tenth of 20 epochs
    # What it reported is known: it is not reported again, and nothing follows from it.
    resumed = trial_of(journal, number, "median")
    assert [resumed.report(0.1, epoch) for epoch in range(6)] == [False] * 5 + [True]
    assert not trial_of(journal, number, "median").report(0.1, 5)


@pytest.mark.parametrize(
    ("pruner", "mode", "value", "decisions"),
    [
        ("median", "max", 0.65, []),
        ("median", "max", 0.6, []),  # as good as the median
        ("median", "min", 0.65, [2, 3, 4]),
        ("median", "min", 0.5, []),
        ("asha", "max", 0.4, []),  # the first to be measured by it
        ("none", "max", 0.1, []),
    ],
)
def test_what_each_pruner_decides(journal, pruner, mode, value, decisions):
    reporter = trial_of(journal, measured(journal, [0.5, 0.6, 0.7], mode), pruner)
    assert [epoch for epoch in range(5) if reporter.report(value, epoch)] == decisions


def test_the_median_waits_for_three_complete_trials(journal):
    reporter = trial_of(journal, measured(journal, [0.5, 0.6]), "median")
    assert not any(reporter.report(0.1, epoch) for epoch in range(20))


@pytest.mark.parametrize(("epochs", "gates"), [(20, (2, 8)), (6, (1, 4)), (60, (6, 24))])
def test_asha_lets_a_quarter_pass_each_of_two_gates(journal, epochs, gates):
    study = opened(journal)
    passed = []
    for value in (0.3, 0.2, 0.4, 0.5, 0.6, 0.1):
        number = study.ask().number
        reporter = trial_of(journal, number, "asha", epochs)
        ended = next((e for e in range(epochs) if reporter.report(value, e)), None)
        passed.append(ended)
        study.tell(number, PRUNED if ended else FINISHED, value)
    assert passed == [None, gates[0], None, None, None, gates[0]]
    worse = trial_of(journal, study.ask().number, "asha", epochs)
    # It leads at the first gate, and falls back until the second.
    assert [e for e in range(gates[1]) if worse.report(0.9, e)] == []
    assert worse.report(0.2, gates[1])


def test_what_is_not_a_number_has_no_hope(journal):
    number = measured(journal, [0.5])
    assert trial_of(journal, number, "asha").report(math.nan, 0)
    assert not trial_of(journal, number, "none").report(math.nan, 0)
    trial = optuna.load_study(study_name="lr", storage=storage(journal)).trials[number]
    assert trial.intermediate_values == {}


def test_a_trial_that_does_not_exist_is_told(journal):
    with pytest.raises(GluonexpError, match="has no trial 0 of study lr"):
        trial_of(journal, 0, "asha")
    assert not journal.exists()
    measured(journal, [])
    with pytest.raises(GluonexpError, match="has no trial 7 of study lr"):
        trial_of(journal, 7, "asha")
    with pytest.raises(GluonexpError, match="has no trial 0 of study other"):
        open_trial(place(str(journal)), "other", 0, "asha", 20)
    with pytest.raises(GluonexpError, match="pruner=best: choose one of none, median, asha"):
        trial_of(journal, 0, "best")


@pytest.fixture
def fit(compose, tmp_path):
    """Train a linear network for 10 epochs on noise."""

    composed = compose("dataset=synthetic", "optim=sgd")

    def trained(lr, *around, history=()):
        config = replace(composed, optim=replace(composed.optim, lr=lr))
        spec = assembly.Spec(4, 4, 1, ("dark", "light"))
        steps = networks.preprocessing(config.dataset, spec)
        networks.seed(0)

        def network(classes):
            net = nn.HybridSequential()
            net.add(nn.Flatten(), nn.Dense(classes))
            return net

        net = networks.network(config, network, spec, steps)
        networks.initialize(config, net, spec, mx.cpu())
        components = assembly.components(config)
        engine = engines.engine(config, components, net, steps, spec, mx.cpu())
        if history:
            checkpoint.load(tmp_path / "checkpoints" / "last", engine, optimizer=True)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, size=(32, 4, 4, 1), dtype=np.uint8)
        split = Split(images, rng.integers(0, 2, size=32))
        return loop.fit(
            engine,
            split,
            {"val": split},
            loop.Settings(10, 8, 0, lambda step: lr, tmp_path, history=history),
            callbacks=[*around],
        )

    return trained


def test_a_run_is_pruned_by_its_study(journal, fit):
    number = measured(journal, [0.01, 0.02, 0.03], mode="min")
    reporter = trial_of(journal, number, "median", epochs=10)
    pruned = fit(1e-6, pruning.Prune(reporter, "val/loss", "min"))
    assert pruned.ending.status == PRUNED
    best = min(row["val/loss"] for row in pruned.history)
    assert (
        pruned.ending.reason == f"pruned, val/loss {best:.4g} after epoch 1 is behind other trials"
    )
    assert len(pruned.history) == 2  # a tenth of 10 epochs, then the decision

    good = fit(1e-6, pruning.Prune(trial_of(journal, number, "none"), "val/loss", "min"))
    assert (good.ending, len(good.history)) == (Ending(FINISHED), 10)


def test_what_is_reported_is_the_best_so_far(journal, fit):
    study = opened(journal, mode="min")
    reporter = trial_of(journal, study.ask().number, "asha", epochs=10)
    history = fit(30.0, pruning.Prune(reporter, "val/loss", "min")).history
    losses = [row["val/loss"] for row in history]
    assert losses != sorted(losses, reverse=True)  # it overshoots, and yet
    [trial] = optuna.load_study(study_name="lr", storage=storage(journal)).trials
    best = list(np.minimum.accumulate(losses))
    assert trial.intermediate_values == dict(enumerate(best))


def test_a_resumed_run_reports_what_is_new(journal, fit, tmp_path):
    class Cut(loop.Callback):
        def epoch_end(self, fit):
            if fit.epoch == 3:
                raise RuntimeError("the power fails")

    study = opened(journal, mode="min")
    number = study.ask().number  # read by `prune`

    def prune():
        return pruning.Prune(trial_of(journal, number, "none"), "val/loss", "min")

    keep = callbacks.Checkpoint("val/loss", "min")
    with pytest.raises(RuntimeError, match="power"):
        fit(0.01, keep, prune(), Cut())
    folder = checkpoint.find(tmp_path / "checkpoints" / "last")
    history = json.loads((folder / "meta.json").read_text())["history"]
    assert len(history) == 4
    whole = fit(0.01, prune(), history=history).history
    [trial] = optuna.load_study(study_name="lr", storage=storage(journal)).trials
    assert list(trial.intermediate_values) == list(range(10))
    assert journal.read_text().count('"step"') == len(whole) == 10  # each epoch once

    # The same checkpoint under a new trial: its study must learn what came before.
    number = study.ask().number
    fit(0.01, prune(), history=history)
    trials = optuna.load_study(study_name="lr", storage=storage(journal)).trials
    assert trials[1].intermediate_values == trials[0].intermediate_values


def test_a_run_that_comes_to_its_own_end_is_not_pruned(journal, fit):
    class Stop(loop.Callback):
        def epoch_end(self, fit):
            if fit.epoch == 1:
                raise loop.StopFit("the end")

    number = measured(journal, [0.01, 0.02, 0.03], mode="min")
    prune = pruning.Prune(trial_of(journal, number, "median", epochs=10), "val/loss", "min")
    ended = fit(1e-6, prune, Stop())
    assert (ended.ending, len(ended.history)) == (Ending(FINISHED, reason="the end"), 2)

    # A decision after the last epoch comes too late.
    prune = pruning.Prune(trial_of(journal, number, "median", epochs=90), "val/loss", "min")
    whole = fit(1e-6, prune)
    assert (whole.ending, len(whole.history)) == (Ending(FINISHED), 10)


def test_a_search_needs_its_metric(journal, fit):
    prune = pruning.Prune(trial_of(journal, measured(journal, []), "asha"), "val/f1", "max")
    with pytest.raises(GluonexpError, match=r"objective.metric=val/f1 is not measured"):
        fit(0.01, prune)
