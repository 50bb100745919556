"""Logs of runs on this machine: those below the folder of a store, and those that are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import in_shell, say
from gluonexp.tracking.log import NAME, Record, records, stores
from gluonexp.tracking.read.records import PARENT
from gluonexp.tracking.uri import resolve_uri, sqlite_path

# Where Hydra keeps the folders of jobs: beside the store's database, or in ./mlruns.
_JOBS = "hydra"
_PATTERNS = ("*", "*/*")  # of single runs, and of those of a sweep


@dataclass(frozen=True)
class Logged:
    """The log of a run, as it was begun.

    Attributes
    ----------
    file
        The log, in the folder of the job.
    run_id
        The run's own id, 32 hex digits.
    store
        The address of the store that it was made in, and its id there; None for a run that was
        begun offline.
    wanted
        The address of the store that it is meant for, made there or not; None if that was not
        said.
    experiment, name
        What it is called; MLflow makes up a name that is None.
    tags
        From its start; `start` is the time, milliseconds after 1970.
    """

    file: Path
    run_id: str
    store: tuple[str, str] | None
    wanted: str | None
    experiment: str
    name: str | None
    tags: dict[str, str]
    start: int

    @property
    def folder(self) -> Path:
        """The folder of the job, which the paths in the log count from."""
        return self.file.parent

    @property
    def parent(self) -> str | None:
        """The own id of the run that it is a child of."""
        return self.tags.get(PARENT)

    @cached_property
    def records(self) -> list[Record]:
        """Everything in it.

        Raises
        ------
        GluonexpError
            It cannot be read, or is damaged.
        """
        return list(records(self.file))

    @property
    def ended(self) -> bool:
        """Whether its process ended it: the last time that it was begun, it also ended."""
        kinds = (entry["kind"] for entry in reversed(self.records))
        return bool(next(kind for kind in kinds if kind in ("open", "status")) == "status")

    @property
    def last(self) -> int:
        """When the run ended or, if its process did not end it, recorded something last (ms)."""
        if not self.ended:
            return int(self.records[-1]["at"])
        return int(next(each["end"] for each in reversed(self.records) if "end" in each))

    def steps(self, metric: str) -> int:
        """Return at how many steps a metric was recorded."""
        points = (point for each in self.records for point in each.get("points", ()))
        return len({step for key, _, _, step in points if key == metric})

    def files(self) -> Path:
        """Return the folder of the files that it recorded, where they lie until they are sent.

        Raises
        ------
        GluonexpError
            It has recorded none.
        """
        for entry in reversed(self.records):
            if entry["kind"] == "artifacts" and not entry["path"]:
                return self.folder / str(entry["folder"])
        raise GluonexpError(f"run {self.run_id[:8]} has recorded no files in {self.folder}")

    def ids(self) -> set[str]:
        """Return the ids of the run: its own, and those it has in stores."""
        here = {self.store[1]} if self.store else set()
        return {self.run_id, *here, *(run_id for run_id, _ in stores(self.file).values())}

    def is_offline(self) -> bool:
        """Say whether no store is known to have the run."""
        return self.store is None and not stores(self.file)


def read(file: Path) -> Logged:
    """Return what a log begins with.

    Raises
    ------
    GluonexpError
        There is no log, or it does not begin as one.
    """
    first = next(iter(records(file)), None)
    try:
        if first is None or first["kind"] != "open":
            raise ValueError("it does not begin with a run")
        store = first["store"] or {"uri": None, "run_id": None}
        made = store["run_id"] is not None
        texts = [first["run"], first["experiment"], *first["tags"], *first["tags"].values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is missing")
        if not re.fullmatch("[0-9a-f]{32}", first["run"]):
            raise ValueError("the run has no id")
        return Logged(
            file,
            first["run"],
            (str(store["uri"]), str(store["run_id"])) if made else None,
            None if store["uri"] is None else str(store["uri"]),
            first["experiment"],
            None if first["name"] is None else str(first["name"]),
            dict(first["tags"]),
            int(first["start"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GluonexpError(
            f"{file}: not the log of a run ({error}); name the folder of a job"
        ) from None


def below(uri: str | None, refuse: Callable[[str], None] = say) -> list[Logged]:
    """Return the logs in the folders of jobs that belong to the store at `uri`, by their start.

    Parameters
    ----------
    refuse
        Takes a line about a log that cannot be read; the others are returned.
    """
    found = []
    for file in _files(uri):
        try:
            found.append(read(file))
        except GluonexpError as error:
            refuse(str(error))
    return sorted(found, key=lambda log: (log.start, log.run_id))


def named(ref: str, uri: str | None, among: Sequence[Logged]) -> Logged:
    """Return the log that `ref` means.

    Parameters
    ----------
    ref
        An id (the first 6 or more characters of it) of a run, its own or one that it has in a
        store; ``last``; the folder of a job; or a log.
    uri
        The store that knows where the job's folder is, if that is nowhere usual.
    among
        The logs that are known.

    Raises
    ------
    GluonexpError
        There is none, or there are several.
    """
    path = Path(ref).expanduser()
    if path.is_dir() or path.is_file():
        return read(path / NAME if path.is_dir() else path)
    if ref == "last" and among:
        return max(among, key=lambda log: log.start)
    if re.fullmatch("[0-9a-f]{6,32}", ref):
        found = [log for log in among if any(one.startswith(ref) for one in log.ids())]
        if len(found) > 1:
            ids = ", ".join(log.run_id for log in found)
            raise GluonexpError(f"{ref} is the beginning of several run ids: {ids}")
        if found:
            return found[0]
        with suppress(GluonexpError):
            return read(_recorded(ref, uri))
    raise GluonexpError(
        f"{ref}: no log of such a run in {in_shell(*map(str, places(uri)))}; name the folder of "
        "its job, which holds run.jsonl"
    )


def offline(uri: str | None) -> list[Logged]:
    """Return the logs beside the store at `uri` of runs that no store is known to have."""
    return [log for log in below(uri, refuse=lambda line: None) if log.is_offline()]


def offline_run(ref: str, uri: str | None) -> Logged | None:
    """Return the log of the one run that no store has, and whose own id begins with `ref`."""
    if not re.fullmatch("[0-9a-f]{6,32}", ref):
        return None
    found = [log for log in offline(uri) if log.run_id.startswith(ref)]
    return found[0] if len(found) == 1 else None


def push_command(file: Path, run_id: str) -> str:
    """Return the command that sends a log; one that lies nowhere usual is named by its folder."""
    folder = file.resolve().parent
    usual = any(place in folder.parents[:2] for place in places(None))
    return f"gluonexp push {run_id}" if usual else in_shell("gluonexp", "push", str(folder))


def places(uri: str | None) -> list[Path]:
    """Return the folders that hold the folders of jobs."""
    database = sqlite_path(resolve_uri(uri))
    homes = [Path.cwd() / "mlruns", *([] if database is None else [database.parent])]
    return list(dict.fromkeys(home.resolve() / _JOBS for home in homes))


def job_folders(uri: str | None, holding: str) -> Iterator[Path]:
    """Yield the folders of jobs that hold something, which may be a pattern."""
    for place in places(uri):
        for pattern in _PATTERNS:
            found = (path.parent for path in sorted(place.glob(f"{pattern}/{holding}")))
            yield from dict.fromkeys(found)


def _files(uri: str | None) -> Iterator[Path]:
    return (folder / NAME for folder in job_folders(uri, NAME))


def _recorded(ref: str, uri: str | None) -> Path:
    """Return where a store says that the log of a run is."""
    from gluonexp.tracking.read.runs import reader

    (run,) = reader(uri).fetch([ref])
    return Path(run.workdir or "") / NAME
