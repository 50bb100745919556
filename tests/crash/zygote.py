"""A process that has imported everything, and gives each command a copy of itself.

It reads orders from its standard input, a line of JSON each, and answers each by one line: how the
command ended. A copy costs a few milliseconds; to start afresh costs seconds. MXNet, OpenMP and
SQLite have computed nothing before, so nothing of them is lost in a copy.
"""

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import signal
import sqlite3
import sys
import tempfile
import threading
import traceback
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from PIL import Image

_PR_SET_CHILD_SUBREAPER = 36
_MODULES = """
gluonexp.base.mx mxnet mlflow mlflow.pyfunc sqlalchemy git pandas.io.formats.csvs
mlflow.store.tracking.sqlalchemy_store mlflow.store.tracking.sqlalchemy_workspace_store
mlflow.store.artifact.local_artifact_repo mlflow.tracking._tracking_service.utils
mlflow.utils.search_logged_model_utils pyarrow.pandas_compat matplotlib.pyplot platformdirs
matplotlib.backends.backend_agg PIL.PngImagePlugin hydra_plugins.gluonexp.sweepers
hydra_plugins.gluonexp.launchers gluonexp.run gluonexp.experiment gluonexp.experiment.together
gluonexp.cli gluonexp.cli.recover gluonexp.tracking.recovery gluonexp.inference.flavor
gluonexp.verification.verify gluonexp.engines.mxnet.engine gluonexp.data.synthetic
gluonexp.models.mlp gluonexp.models.loss tests.crash.dying
"""


def main() -> None:
    """Carry out orders until there are no more."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for name in _MODULES.split():
        importlib.import_module(name)
    with suppress(ImportError):
        importlib.import_module("openvino")
    Plugins.instance()
    make_once()
    gc.collect()
    gc.freeze()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(_carried_out(json.loads(line))), flush=True)


def make_once() -> None:
    """Let copies of this process copy what takes long to make and is the same each time.

    That is an empty store, and the pictures.
    """
    from gluonexp.report import plots
    from gluonexp.tracking import internals

    with tempfile.TemporaryDirectory() as folder:
        internals.make_tables(Path(folder, "store.db"), Path(folder, "artifacts"))
        store = Path(folder, "store.db").read_bytes()
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")

    def copied(database: Path, artifacts: Path) -> None:
        database.write_bytes(store)
        with closing(sqlite3.connect(database)) as link, link:
            link.execute("UPDATE experiments SET artifact_location = ?", [f"{artifacts}/0"])

    def drawn(*arguments: Any, **more: Any) -> None:
        paths = [each for each in (*arguments, *more.values()) if isinstance(each, Path)]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_bytes(image.getvalue())

    internals.make_tables = copied
    for kind in ("sample_grid", "curves", "confusion_matrix", "worst_mistakes", "prediction"):
        setattr(plots, kind, drawn)


def _carried_out(order: dict[str, Any]) -> int:
    """Return the exit code of a command, minus a signal's number, once all of it has ended."""
    pid = os.fork()
    if not pid:
        _command(order)
    if order.get("seconds"):  # after so long it is killed from outside
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, order["seconds"])
    _, status = os.waitpid(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)  # workers end when they see that their parent is gone
    return os.waitstatus_to_exitcode(status)


def _command(order: dict[str, Any]) -> None:
    """Be the process of a command; never returns."""
    code = 70
    try:
        os.chdir(order["cwd"])
        os.environ.update(order["environment"])
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, descriptor)
        code = _ended(order)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(order: dict[str, Any]) -> int:
    """Carry out a command as Python does; return its exit code."""
    from gluonexp import cli
    from gluonexp.run import start
    from tests.crash import dying

    sys.argv[:] = order["arguments"]
    dying.prepare_worker()
    dying.watch(order)
    try:
        start() if order["module"] == "gluonexp.run" else cli.main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    return code


if __name__ == "__main__":
    main()
