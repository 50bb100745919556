"""The plan carried out, and the proof that it held."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import nd, nn
from gluonexp.base.text import listed
from gluonexp.freeze import FreezePlan, FreezeRow
from gluonexp.models.layers import holders, is_statistic, walk


class Frozen:
    """What is frozen in a network, and what it was when training began; made by `apply`."""

    def __init__(self, net: nn.HybridBlock, plan: FreezePlan) -> None:
        self._net = net
        self._rows = [row for row in plan.rows if row.state == "frozen"]
        self._parts = {release.epoch: list(release.parts) for release in plan.releases}
        self._digests = _digests(net, self._rows)

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of what was frozen when training began, by name; also of what is released."""
        return dict(self._digests)

    def resume(self, epochs: int, digests: Mapping[str, str] | None) -> None:
        """Release what the epochs already trained had released, and audit the rest.

        Call it once the values of that training are in the network.

        Parameters
        ----------
        epochs
            How many epochs are behind.
        digests
            Those of that training when it began; None: unknown, so what is still frozen is
            audited from here on only.

        Raises
        ------
        GluonexpError
            As `audit`: something still frozen is not what it was when that training began.
        """
        self._release([row for row in self._rows if _epoch(row) < epochs])
        if digests is None:
            self._digests = _digests(self._net, self._rows)
        else:
            self._digests = dict(digests)
            self.audit()

    def unfreeze(self, epoch: int) -> list[str]:
        """Release what is due in this epoch, after an audit; return the parts that learn now."""
        due = [row for row in self._rows if _epoch(row) == epoch]
        if not due:
            return []
        self.audit()
        self._release(due)
        return self._parts[epoch]

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
        now = _digests(self._net, self._rows)
        if moved := [name for name, digest in now.items() if digest != self._digests.get(name)]:
            raise GluonexpError(
                f"frozen, but changed during training: {listed(moved)}; something other than "
                "the optimizer writes to them, look at the network and the callbacks"
            )
        return len(now)

    def _release(self, rows: list[FreezeRow]) -> None:
        parameters = self._net._collect_params_with_prefix()
        held = holders(self._net)
        released = {row.parameter for row in rows}
        self._rows = [row for row in self._rows if row.parameter not in released]
        for name in released:
            if is_statistic(held, name):
                held[name][1]._kwargs["use_global_stats"] = False
            else:
                parameters[name].grad_req = "write"
        _recompile(self._net)


def apply(net: nn.HybridBlock, plan: FreezePlan) -> Frozen:
    """Make `net` train as `plan` says when training begins.

    Parameters
    ----------
    net
        As planned, every parameter with its value; may be hybridized already.

    Returns
    -------
    Frozen
        Carries out the rest of the plan, and audits.
    """
    parameters, held = net._collect_params_with_prefix(), holders(net)
    for row in plan.rows:
        parameter = parameters[row.parameter]
        if row.lr_mult:
            parameter.lr_mult = row.lr_mult
        if row.state == "frozen":
            parameter.grad_req = "null"
        if is_statistic(held, row.parameter):
            held[row.parameter][1]._kwargs["use_global_stats"] = row.state == "frozen"
    _recompile(net)
    return Frozen(net, plan)


def _epoch(row: FreezeRow) -> float:
    return float("inf") if row.unfreeze_epoch is None else row.unfreeze_epoch


def _recompile(net: nn.HybridBlock) -> None:
    """Have a hybridized network take in what changed in its layers, under the same flags."""
    for layer in walk(net).values():
        if isinstance(layer, nn.HybridBlock):
            layer._clear_cached_op()


def _digests(net: nn.HybridBlock, rows: list[FreezeRow]) -> dict[str, str]:
    """Return the sha256 of each parameter's value by its name."""
    nd.waitall()  # device sync; a static graph shows stale BatchNorm statistics without it
    parameters = net._collect_params_with_prefix()
    held = holders(net)
    digests = {}
    for row in rows:
        gamma = row.batchnorm and row.parameter.endswith("gamma")
        if gamma and held[row.parameter][1]._kwargs["fix_gamma"]:
            continue  # never read: MXNet takes 1 for it, and may write that there
        value = parameters[row.parameter].list_data()[0].asnumpy()
        digests[row.parameter] = hashlib.sha256(value.tobytes()).hexdigest()
    return digests
