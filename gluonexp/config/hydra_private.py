"""What gluonexp uses of Hydra beyond its documented interface; read from hydra-core 1.3.8.

Should another release change one of these, this is the only file to mend.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import hydra
import yaml
from hydra._internal import hydra as _runner
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core import utils as _utils
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime, JobStatus
from hydra.errors import CompactHydraException
from hydra.types import RunMode, TaskFunction
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf

from gluonexp.base.files import draft, obstacle
from gluonexp.base.secrets import hidden, hidden_words

# What an application of Hydra has one of.
_STATE: Final = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
_LOCK: Final = threading.RLock()
_RUNNER: Final[Any] = _runner  # whose functions are replaced
_SAVER: Final[Any] = _utils


def state() -> Any:
    """Return Hydra's global state, for `restore` in a worker process.

    Hydra's own launchers do the same. Without it a worker knows no resolvers, and no groups that
    a `ConfigStore` holds: no job can be composed there.
    """
    return Singleton.get_state()


def restore(state: Any) -> None:
    """Take over the `state` of another process; Hydra then looks for its plugins (slow)."""
    Singleton.set_state(state)


def outcome(done: JobReturn) -> Any:
    """Return what a job returned, or the exception it raised.

    `JobReturn.return_value` prints a line about a job that failed, and raises.
    """
    return done._return_value


@contextmanager
def application(
    conf_dir: str, job_name: str = "app", more: str | Path | None = None
) -> Iterator[None]:
    """Be an application of Hydra for a while; another one in this process goes on afterwards.

    Hydra keeps its state in objects of which a process has one: of several threads, one at a time
    is an application. The same thread may be one within another.

    Parameters
    ----------
    more
        A folder of further groups, as ``--config-dir`` names it.

    Raises
    ------
    CompactHydraException
        `more` is no folder.
    """
    with _LOCK:
        theirs = {kind: Singleton._instances.pop(kind, None) for kind in _STATE}
        try:
            with (
                hydra.initialize_config_dir(
                    version_base="1.3", config_dir=conf_dir, job_name=job_name
                ),
                _told_of_files(),
            ):
                if more is not None:
                    _add_folder(Path(more).expanduser().absolute())
                yield
        finally:
            for kind, instance in theirs.items():
                Singleton._instances.pop(kind, None)
                if instance is not None:
                    Singleton._instances[kind] = instance


def _add_folder(folder: Path) -> None:
    """Do what Hydra does on the command line with ``--config-dir``."""
    if not folder.is_dir():
        raise CompactHydraException(f"config_dir={folder}: there is no such folder")
    ours = GlobalHydra.instance().hydra
    assert ours is not None
    loader: Any = ours.config_loader
    search = loader.get_search_path()
    before = SearchPathQuery(provider="schema")
    search.prepend(provider="command-line", path=f"file://{folder}", anchor=before)
    loader.repository = ConfigRepository(config_search_path=search)


def single(config_name: str, task: TaskFunction, overrides: Sequence[str]) -> bool:
    """Run one job as the command line would; what it raises is raised, and nothing printed.

    Within an `application` of whose files is `told`.

    Returns
    -------
    bool
        False, and nothing was run, where the configuration asks for several jobs.
    """
    ours = GlobalHydra.instance().hydra
    assert ours is not None
    if ours.get_mode(config_name, list(overrides)) == RunMode.MULTIRUN:
        return False
    with _logging_kept():
        ours.run(config_name, task, list(overrides))
    return True


class _Silent(JobReturn):
    """How a job ended, without the line that Hydra prints of one that failed."""

    @property  # type: ignore[misc]
    def return_value(self) -> Any:
        if self.status == JobStatus.COMPLETED:
            return self._return_value
        raise self._return_value


def multirun(config_name: str, task: TaskFunction, overrides: Sequence[str]) -> Any:
    """Run what ``--multirun`` would, and return what the sweeper returned.

    Within an `application`. On the command line Hydra drops that value
    (`hydra._internal.utils._run_app`).
    """
    ours = GlobalHydra.instance().hydra
    assert ours is not None
    with _logging_kept():
        return ours.multirun(config_name, task, list(overrides))


@contextmanager
def job_folder(key: str, folder: Path) -> Iterator[None]:
    """Say in a sentence why a folder, the value of `key`, cannot be made or written.

    Raises
    ------
    CompactHydraException
        Instead of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise CompactHydraException(
            f"{key}={folder} cannot be made or written ({obstacle(folder, error)}); start in "
            f"another folder, or name one with {key}="
        ) from None


@contextmanager
def told(*, aloud: bool = True) -> Iterator[None]:
    """Let Hydra say so of files, and of the folder of a single job, before any code of ours.

    Should the job fail, it also says `aloud` with which overrides: without their secrets.
    """
    made = _RUNNER.run_job

    def run_job(**options: Any) -> JobReturn:
        key = options["job_dir_key"]
        with job_folder(key, Path(str(OmegaConf.select(options["config"], key)))):
            done: JobReturn = made(**options)  # what the job itself raises is in it
        done.overrides = hidden_words(done.overrides or [])
        if not aloud:
            done.__class__ = _Silent
        return done

    _RUNNER.run_job = run_job
    try:
        with _told_of_files():
            yield
    finally:
        _RUNNER.run_job = made


@contextmanager
def _told_of_files() -> Iterator[None]:
    """Let Hydra say in a sentence which file of a configuration cannot be read, and why."""
    Plugins.instance()  # they have a class of their own for files
    source: Any = SourcesRegistry.instance().resolve("file")
    load = source.load_config

    def load_config(self: Any, config_path: str) -> Any:
        try:
            return load(self, config_path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            file = Path(self.path, self._normalize_file_name(config_path))
            why = obstacle(file, error) if isinstance(error, OSError) else str(error)
            raise CompactHydraException(
                f"{file} is no YAML that can be read ({' '.join(why.split())}): correct it"
            ) from None

    source.load_config = load_config
    try:
        yield
    finally:
        source.load_config = load


def without_secrets(config: DictConfig | ListConfig) -> Any:
    """Return a configuration to be written: secrets hidden, what refers to other keys as it is.

    It is `config` itself where nothing in it is secret.
    """
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    shown = hidden(plain)
    return config if shown == plain else OmegaConf.create(shown, flags={"allow_objects": True})


@contextmanager
def secrets_hidden() -> Iterator[None]:
    """Let Hydra write no secrets into the folders of its jobs (``.hydra/``)."""
    save = _SAVER._save_config

    def hiding(cfg: DictConfig | ListConfig, filename: str, output_dir: Path) -> None:
        save(without_secrets(cfg), filename, output_dir)

    _SAVER._save_config = hiding
    try:
        yield
    finally:
        _SAVER._save_config = save


def hide_saved(folder: Path) -> None:
    """Hide the secrets in what Hydra wrote into ``.hydra/`` where we could not keep it from it.

    That is in a process that another launcher has started, as on a cluster.
    """
    for file in () if _SAVER._save_config.__module__ == __name__ else folder.glob("*.yaml"):
        config = OmegaConf.load(file)
        if (shown := without_secrets(config)) is not config:
            with draft(file) as written:
                OmegaConf.save(shown, written)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Give the root logger its handlers back: Hydra closes them for those of its jobs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            handler.mode = "a"  # closed, it opens again and adds to what it wrote
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def default_sweeper(node: Mapping[str, Any]) -> Iterator[None]:
    """Let ``hydra/sweeper=basic``, Hydra's default, mean `node` for a while.

    Hydra stores its own node of that name when it first looks for plugins; of two nodes of a name
    the last one counts. A file ``hydra/sweeper/basic.yaml`` would do the same, with a warning each
    time. Without it ``-m`` starts Hydra's sweeper: every job runs, with no parent and no report.
    """
    Plugins.instance()
    store = ConfigStore.instance()
    before = store.load("hydra/sweeper/basic.yaml")
    store.store(group="hydra/sweeper", name="basic", node=dict(node), provider="gluonexp")
    try:
        yield
    finally:
        store.store(before.name, before.node, before.group, before.package, before.provider)


def completions(conf_dir: str, words: Sequence[str]) -> list[str]:
    """Return what could follow in place of the last of `words`: groups, their choices and keys.

    None where Hydra's parts of it are elsewhere: then Tab completes nothing.
    """
    try:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.utils import create_config_search_path
        from hydra.plugins.completion_plugin import DefaultCompletionPlugin

        Plugins.instance()
        loader = ConfigLoaderImpl(create_config_search_path(conf_dir))
        return DefaultCompletionPlugin(loader)._query("config", " ".join(words))
    except (ImportError, AttributeError, TypeError):
        return []
