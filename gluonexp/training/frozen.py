"""What is frozen during training: released when it is due, and proved not to have moved."""

from __future__ import annotations

from collections.abc import Mapping

from gluonexp.base.errors import GluonexpError
from gluonexp.base.text import listed
from gluonexp.freeze import FreezePlan
from gluonexp.training.engine import Engine


class Frozen:
    """The frozen part of a network, and what it was when training began.

    Parameters
    ----------
    engine
        Trains as `plan` says when training begins.
    """

    def __init__(self, engine: Engine, plan: FreezePlan) -> None:
        self._engine = engine
        self._releases = {release.epoch: release for release in plan.releases}
        self._audited = list(plan.audited)
        self._digests = engine.digests(self._audited)

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of what was frozen when training began, by name; also of what is released."""
        return dict(self._digests)

    def resume(self, epochs: int, digests: Mapping[str, str] | None) -> None:
        """Release what the epochs already begun had released, and audit the rest.

        Call it once the values of that training are in the network.

        Parameters
        ----------
        epochs
            How many epochs had begun.
        digests
            Those of that training when it began; None: unknown, so what is still frozen is
            audited from here on only.

        Raises
        ------
        GluonexpError
            As `audit`: something still frozen is not what it was when that training began.
        """
        for epoch in [epoch for epoch in self._releases if epoch < epochs]:
            self._release(epoch)
        if digests is None:
            self._digests = self._engine.digests(self._audited)
        else:
            self._digests = dict(digests)
            self.audit()

    def unfreeze(self, epoch: int) -> list[str]:
        """Release what is due in this epoch, after an audit; return the parts that learn now."""
        if epoch not in self._releases:
            return []
        self.audit()
        return self._release(epoch)

    def audit(self) -> int:
        """Compare everything that is still frozen with its value at the start.

        Returns
        -------
        int
            How many parameters and statistics were compared, and found bit for bit the same.

        Raises
        ------
        GluonexpError
            Something frozen has moved; the message names it.
        """
        now = self._engine.digests(self._audited)
        if moved := [name for name, digest in now.items() if digest != self._digests.get(name)]:
            raise GluonexpError(
                f"frozen, but changed during training: {listed(moved)}; something other than "
                "the optimizer writes to them, look at the network and the callbacks"
            )
        return len(now)

    def _release(self, epoch: int) -> list[str]:
        due = self._releases.pop(epoch)
        self._audited = [name for name in self._audited if name not in due.parameters]
        self._engine.release(due.parameters)
        return list(due.parts)
