"""What gluonexp uses of Hydra beyond its documented interface; read from hydra-core 1.3.8.

Should another release change one of these, this is the only file to mend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.types import TaskFunction


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


def multirun(config_name: str, task: TaskFunction, overrides: Sequence[str]) -> Any:
    """Run what ``--multirun`` would, and return what the sweeper returned.

    Within `hydra.initialize_config_dir`. On the command line Hydra drops that value
    (`hydra._internal.utils._run_app`).
    """
    application = GlobalHydra.instance().hydra
    assert application is not None
    return application.multirun(config_name, task, list(overrides))


def set_default_sweeper(node: Mapping[str, Any]) -> None:
    """Let ``hydra/sweeper=basic``, Hydra's default, mean `node` in this process.

    Hydra stores its own node of that name when it first looks for plugins; of two nodes of a name
    the last one counts. A file ``hydra/sweeper/basic.yaml`` would do the same, with a warning each
    time. Without it ``-m`` starts Hydra's sweeper: every job runs, with no parent and no report.
    """
    Plugins.instance()
    ConfigStore.instance().store(
        group="hydra/sweeper", name="basic", node=dict(node), provider="gluonexp"
    )


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
