"""Going on from a checkpoint: what must be the same as before, and what is taken over from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gluonexp.assembly import Pretrained
from gluonexp.base.errors import GluonexpError
from gluonexp.config.schema import Config
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.training import checkpoint

# What says where the first parameters came from: the checkpoint has those it went on with.
ORIGIN = ("weights", "sha256")


@dataclass(frozen=True)
class Earlier:
    """The checkpoint ``trainer.resume``, known to be whole."""

    folder: Path
    identity: Mapping[str, Any]
    history: list[dict[str, float]]

    def check(self, now: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings or data than before.

        Raises
        ------
        GluonexpError
            The message names what differs.
        """
        for key, value in now.items():
            if (before := self.identity.get(key)) != value:
                raise self._differs(*_innermost(key, before, value))

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
        return Pretrained(**{**fields, "warning": None})  # what it warned of is behind us

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


def earlier(config: Config) -> Earlier | None:
    """Return the checkpoint to go on from, if there is one to go on from.

    Raises
    ------
    GluonexpError
        It is not complete, is damaged, or has more epochs behind it than are asked for.
    """
    if config.trainer.resume is None:
        return None
    folder = Path(config.trainer.resume).expanduser()
    if checkpoint.find(folder) is None:
        raise GluonexpError(f"trainer.resume={folder}: no complete checkpoint there")
    meta = checkpoint.read_meta(folder)
    history: list[dict[str, float]] = meta["history"]
    if len(history) > config.trainer.epochs:
        raise GluonexpError(
            f"trainer.resume={folder}: has {len(history)} epochs already; ask for at least as "
            "many with trainer.epochs=N"
        )
    return Earlier(folder, meta["identity"], history)


def settings(config: Config, steps: Preprocessing) -> dict[str, Any]:
    """Return the settings that continued training must share; known before any data are read."""
    return {
        "seed": config.seed,
        "dataset.val_fraction": config.dataset.val_fraction,
        "dataset.train_fraction": config.dataset.train_fraction,
        "dataset": steps.to_json(),
        "trainer.batch_size": config.trainer.batch_size,
        "optim": asdict(config.optim),
        "scheduler": config.scheduler,
        "model": {key: value for key, value in config.model.items() if key not in ORIGIN},
        "loss": config.loss,
        "augment": config.augment,
        "freeze": asdict(config.freeze),
    }
