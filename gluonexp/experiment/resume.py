"""Resuming from a checkpoint: what must be the same as before, and what is taken over from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from gluonexp import assembly
from gluonexp.assembly import Components
from gluonexp.assembly.networks import Pretrained
from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hidden_words, hide
from gluonexp.base.text import in_shell
from gluonexp.config.overrides import by_key, override, typed
from gluonexp.config.schema import Config
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.training import checkpoint, job_folder, loop
from gluonexp.training.average import Ema
from gluonexp.training.callbacks import EarlyStopping
from gluonexp.training.engine import Engine
from gluonexp.training.job_folder import Owner
from gluonexp.training.team import Team

# What says where the first parameters came from: the checkpoint has those that followed.
ORIGIN = ("weights", "sha256")

# What checkpoints do not say that were written before there was a choice.
_ADDED: Final = {"trainer.checkpoint_every_steps": 0}
_REFERENCE: Final = {"name": "mxnet", "precision": "float32"}


@dataclass(frozen=True)
class Earlier:
    """The checkpoint ``trainer.resume``, known to be whole.

    Attributes
    ----------
    step
        Of the epoch after those of `history`, how many steps were trained.
    damage
        What newer checkpoints beside it are damaged, in whose place this one is taken.
    """

    folder: Path
    identity: Mapping[str, Any]
    history: list[dict[str, float]]
    owner: Owner
    step: int = 0
    damage: Sequence[str] = ()

    def check(self, now: Mapping[str, Any]) -> None:
        """Refuse to resume with other settings or data than before.

        Raises
        ------
        GluonexpError
            The message names what differs.
        """
        for key, value in now.items():
            if (before := self.identity.get(key, _ADDED.get(key))) != value:
                raise self._differs(*_innermost(key, before, value))

    def switch(self, config: Config, overrides: Sequence[str]) -> str | None:
        """Say that another engine trains on than has so far; None where none does.

        Raises
        ------
        GluonexpError
            It was not asked for by name, in the overrides.
        """
        before, now = self.identity.get("engine", _REFERENCE), engine(config)
        if before == now:
            return None
        if not any(key.partition(".")[0] == "engine" for key in by_key(overrides)):
            raise GluonexpError(
                f"trainer.resume={self.folder}: {_named(before)} has trained it; go on with "
                f"{_typed(before)}, or let another engine go on by name, with {_typed(now)}"
            )
        return f"{_named(before)} has trained so far, {_named(now)} goes on"

    def pretrained(self, config: Config) -> Pretrained | None:
        """Return where the parameters first came from, unless `config` asks for others.

        The checkpoint has all of them: neither the file nor the run they came from is needed.
        """
        fields = self.identity.get("pretrained")
        if fields is None:
            return None
        for key, before in zip(ORIGIN, (fields["choice"], fields["sha256"]), strict=True):
            if (now := config.model.get(key)) not in (before, "auto", None):
                raise self._differs(f"model.{key}", before, now)
        return Pretrained(**{**fields, "warning": None})  # the user was warned then

    def restore(self, engine: Engine, workdir: Path, team: Team) -> None:
        """Put the checkpoint into `engine`, and the best one so far into the job's folder.

        Rank 0 alone reads it, and tells the others of `team`.
        """
        if team.rank == 0:
            checkpoint.load(self.folder, engine, optimizer=True)
        if team.size > 1:
            state = team.tell(engine.state())
            if team.rank:
                engine.load(state, optimizer=True)
                return
        best = checkpoint.find(self.folder.parent / "best")
        target = workdir / job_folder.CHECKPOINTS / "best"
        if best is None or best.resolve() == target.resolve():
            return
        if len(checkpoint.read_meta(best)["history"]) <= len(self.history):  # it may stay the best
            checkpoint.copy(best, target)

    def same_run(self, config: Config) -> bool:
        """Tell whether the run that left it goes on as itself."""
        return self.owner.run_id is not None and self.owner.run_id == config.tracking.run_id

    def sentence(self) -> str:
        """Say what is resumed."""
        source = self.folder if self.owner.run_id is None else f"run {self.owner.run_id[:8]}"
        begun = f" and {self.step} steps" if self.step else ""
        return f"resumes {source} after {len(self.history)} epochs{begun}"

    def notes(
        self, config: Config, components: Components, now: loop.Settings, train_size: int
    ) -> Iterator[str]:
        """Say what is not as if training had never stopped, where a whole run is trained further.

        Parameters
        ----------
        now
            As it will be trained from here on, on so many images.
        """
        yield from self.damage
        if self.owner.unfinished:
            return
        stopping = any(isinstance(each, EarlyStopping) for each in components.callbacks)
        if self.owner.stopped and stopping:
            yield f"patience starts anew: the run had stopped, {self.owner.stopped}"
        epochs = self.identity.get("epochs", config.trainer.epochs)
        trained = replace(config, trainer=replace(config.trainer, epochs=epochs))
        before = assembly.schedule(trained, components, train_size)
        next_step = len(self.history) * -(-train_size // now.batch_size)
        steps = (0, next_step // 2, next_step - 1, next_step)
        if any(before(step) != now.schedule(step) for step in steps):
            yield (
                f"the learning rate is computed anew for {now.epochs} epochs (it was for "
                f"{epochs}): {now.schedule(next_step):.3g} now, after {before(next_step - 1):.3g}"
            )

    def _differs(self, key: str, before: object, now: object) -> GluonexpError:
        return GluonexpError(
            f"trainer.resume={self.folder}: {key} was {before} there and is {now} now; continue "
            "with what it was trained with"
        )


def _innermost(key: str, before: object, now: object) -> tuple[str, object, object]:
    """Follow a difference of two mappings down to a single value."""
    while isinstance(before, Mapping) and isinstance(now, Mapping):
        part = next(part for part in {**before, **now} if before.get(part) != now.get(part))
        key, before, now = f"{key}.{part}", before.get(part), now.get(part)
    return key, before, now


def home(config: Config, workdir: Path) -> Path:
    """Return the job's folder: that of a run which goes on as itself, else `workdir`."""
    if config.trainer.resume is None or config.tracking.run_id is None:
        return workdir
    checkpoints = Path(config.trainer.resume).expanduser().absolute().parent
    ours = job_folder.owner(checkpoints).run_id == config.tracking.run_id
    return checkpoints.parent if ours and checkpoints.name == job_folder.CHECKPOINTS else workdir


def earlier(config: Config) -> Earlier | None:
    """Return the checkpoint to resume from, if one is asked for.

    Raises
    ------
    GluonexpError
        It is not complete, is damaged, or has more epochs behind it than are asked for.
    """
    if config.trainer.resume is None:
        return None
    folder = Path(config.trainer.resume).expanduser()
    if checkpoint.find(folder) is None:
        raise GluonexpError(
            f"trainer.resume={folder}: no complete checkpoint there; name a run, or the folder of "
            "one of its checkpoints"
        )
    folder, meta, damage = _intact(folder)
    history: list[dict[str, float]] = meta["history"]
    owner = job_folder.owner(folder.parent)
    enough = config.trainer.epochs - (not owner.unfinished)
    if len(history) > enough:
        raise GluonexpError(
            f"trainer.resume={folder}: has {len(history)} epochs already; ask for "
            f"{'at least as many' if owner.unfinished else 'more'} with trainer.epochs=N"
        )
    return Earlier(folder, meta["identity"], history, owner, int(meta.get("step", 0)), damage)


def _intact(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Return a checkpoint and its meta; in place of a damaged newest one the one before.

    What is damaged is said in sentences.
    """
    places, damage = [folder], list[str]()
    if folder.name in (checkpoint.LAST, checkpoint.STEP):
        ordered = checkpoint.newest(folder.parent)
        places += ordered[ordered.index(folder) + 1 :] if folder in ordered else []
    for place in places:
        try:
            meta = checkpoint.read_meta(place)
            if not {"history", "identity"} <= meta.keys():
                raise GluonexpError(
                    f"{place}: its {checkpoint.META} does not say what was trained"
                )
        except GluonexpError as error:
            damage.append(str(error))
            continue
        if damage:
            damage.append(f"training goes on from {place}, after {len(meta['history'])} epochs")
        return place, meta, damage
    raise GluonexpError("; ".join(dict.fromkeys(damage)))


def engine(config: Config) -> dict[str, Any]:
    """Return what decides which arithmetic trains; another may go on, by name."""
    return {"name": config.engine.name, "precision": config.engine.precision}


def _named(engine: Mapping[str, Any]) -> str:
    return f"engine={engine['name']} in {engine['precision']}"


def _typed(engine: Mapping[str, Any]) -> str:
    precision = engine["precision"]
    words = [f"engine={engine['name']}"]
    return " ".join(words if precision == "float32" else [*words, f"engine.precision={precision}"])


def settings(config: Config, components: Components, steps: Preprocessing) -> dict[str, Any]:
    """Return the settings that resumed training must share; known before any data are read."""
    averages = [each.decay for each in components.callbacks if isinstance(each, Ema)]
    return {
        "seed": config.seed,
        "dataset.val_fraction": config.dataset.val_fraction,
        "dataset.train_fraction": config.dataset.train_fraction,
        "dataset": steps.to_json(),
        "trainer.batch_size": config.trainer.batch_size,
        "trainer.checkpoint_every_steps": config.trainer.checkpoint_every_steps,
        "optim": asdict(config.optim),
        "scheduler": config.scheduler,
        "model": {key: value for key, value in config.model.items() if key not in ORIGIN},
        "loss": config.loss,
        "augment": config.augment,
        "freeze": asdict(config.freeze),
        "callbacks.ema.decay": averages[0] if averages else None,
    }


def command(
    workdir: Path, overrides: Sequence[str], allow: Sequence[str] = (), *, python: bool = False
) -> str:
    """Say with which command training goes on; an empty text if it has left no checkpoint.

    Parameters
    ----------
    workdir
        The job's folder.
    overrides
        What was typed.
    allow
        The packages of ``build.allow``, also where a file says it: no record may, so that it is
        typed again.
    python
        Say it as a call of `gluonexp.api` rather than for a shell.
    """
    checkpoints = workdir / job_folder.CHECKPOINTS
    if not (newest := checkpoint.newest(checkpoints)):
        return ""
    known = job_folder.owner(checkpoints).run_id
    needed = [word for word in overrides if word.startswith("tracking.uri=")]
    needed += [f"build.allow=[{','.join(allow)}]"] if allow else []
    resume = known or str(newest[0])
    if python:
        words = [override("trainer.resume", resume), *hidden_words(needed)]
        return f"; to continue: gx.run({', '.join(map(repr, words))})"
    words = [typed("trainer.resume", resume), *map(in_shell, needed)]
    return f"; to continue: python -m gluonexp.run {hide(' '.join(words))}"
