"""What trains a network: the protocol that an engine implements, and what passes through it.

An engine owns memory, kernels, random numbers and the arithmetic of a step, by MXNet's rules. It
knows nothing of epochs, callbacks, freeze policies or tracking, and none of these knows which
engine computes. Gluon owns the network, its names and its export.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.data.types import Batch, Split
from gluonexp.freeze import FreezePlan
from gluonexp.graph.graph import Output


class Pending(Protocol):
    """A step that was issued; the device may not have computed it yet."""

    def wait(self) -> None:
        """Return once it is computed."""

    def loss(self) -> float:
        """Return the mean loss of its batch before the update; waits for this step, no other."""


@dataclass(frozen=True)
class Scores:
    """What was measured on some samples, each of which counts the same.

    Attributes
    ----------
    loss
        Mean loss; NaN without samples.
    acc
        Top-1 accuracy in [0, 1]; NaN without samples.
    samples
        How many there were.
    grad_norm
        Mean over steps of the L2 norm of a batch's mean gradient, all parameters together, before
        it was clipped; None where nothing clips.
    logits
        (N, K) in data-set order, where they were asked for.
    """

    loss: float
    acc: float
    samples: int
    grad_norm: float | None = None
    logits: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    def named(self, split: str) -> dict[str, float]:
        """Return the metrics of `split` by name: ``val/loss``, ``val/acc``."""
        return {f"{split}/{name}": value for name, value in self.scores().items()}

    def scores(self) -> dict[str, float]:
        """Return loss and accuracy by name."""
        return {"loss": self.loss, "acc": self.acc}


@dataclass(frozen=True)
class State:
    """All that training needs to resume, as NumPy arrays; the same for every engine.

    Attributes
    ----------
    values
        Parameters and running statistics by structural name (``features.0.weight``), as the
        network has them: where `average` was called, what learns is its average.
    slots
        What the optimizer keeps, by its kind (``momentum``; ``mean`` and ``var`` of Adam), then by
        parameter.
    updates
        How often the optimizer has updated each parameter.
    sums
        The running scores of an epoch that has not ended; empty between epochs.
    raw
        Of each parameter whose value above is an average: what training goes on with.
    """

    values: Mapping[str, NDArray[Any]]
    slots: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    updates: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    raw: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def check(self, shapes: Mapping[str, tuple[int, ...]], kinds: Collection[str] | None) -> None:
        """Refuse the state of another network, or of another optimizer.

        Parameters
        ----------
        shapes
            Of the network's parameters and statistics, by name.
        kinds
            Of what its optimizer keeps; None: that is not looked at.

        Raises
        ------
        GluonexpError
            The message names what differs.
        """
        for theirs in (_shapes(self.values), _shapes({**self.values, **self.raw})):
            for name in {**shapes, **theirs}:
                if (there := theirs.get(name)) != (here := shapes.get(name)):
                    raise GluonexpError(
                        f"a checkpoint of another network: {name} is {there or 'missing'} "
                        f"there and {here or 'missing'} here"
                    )
        if kinds is None:
            return
        updated = {name: shapes.get(name) for name in self.updates}
        wanted = dict.fromkeys(kinds, updated) if updated else {}
        found = {kind: _shapes(by_name) for kind, by_name in self.slots.items()}
        if wanted != found or None in updated.values():
            raise GluonexpError("saved with another optimizer than this one")


class Engine(Protocol):
    """A network with all that training it needs, on one device."""

    @property
    def where(self) -> str:
        """The device, as its library calls it."""

    def prove(self, batch: Batch) -> Mapping[str, str]:
        """Show on a real batch, before the first step, that it trains as MXNet does.

        Returns
        -------
        Mapping
            What was found, for the record: tags. Nothing of the engine has changed.

        Raises
        ------
        GluonexpError
            It does not, and the message names the layer.
        """

    def seed(self, seed: int, epoch: int, step: int = 0) -> None:
        """Let the random numbers from here on (dropout) depend on these three alone.

        `step` is counted within the epoch. Above 0 training may resume from here: processes that
        train together go on with the running statistics of rank 0, which a checkpoint has.
        """

    def reset(self, sums: Mapping[str, NDArray[Any]] | None = None) -> None:
        """Start the running scores from nothing, or from a state's `sums`."""

    def start(self, behind: Output | None) -> None:
        """Take what the network gives at an output of its graph in place of images.

        From now on `step`, `evaluate` and `logits` get features, and compute what lies behind
        that output only; None: images again. What is released meanwhile learns from then on.

        Parameters
        ----------
        behind
            Of the graph that `gluonexp.graph.symbols.traced` gives; no other output of its node
            may be needed. What lies before it must not learn.
        """

    def step(self, batch: Batch, lr: float) -> Pending:
        """Move the parameters once, at the learning rate `lr`; nothing here waits."""

    def average(self, decay: float) -> None:
        """Move an average of every parameter that learns towards it, by 1 - `decay` of the way.

        It begins as the value that it is first called with. From then on the network is that of
        the averages, for all but `step`, which goes on with what it trains; running statistics
        are not averaged. Nothing here waits.
        """

    def running(self) -> Scores:
        """Return the scores of the training batches since `reset`; waits."""

    def sync(self) -> None:
        """Return once everything issued is computed."""

    def evaluate(self, split: Split, batch_size: int, *, keep_logits: bool = False) -> Scores:
        """Return the scores of `split` in prediction mode, by the configured loss.

        `keep_logits` also gives those that were scored; the other scores are the same bit for bit.
        """

    def logits(self, split: Split, batch_size: int) -> NDArray[np.float32]:
        """Return the logits (N, K) of `split` in data-set order, in prediction mode."""

    def losses(
        self, logits: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the loss (N,) of each sample, given its logits (N, K) and label (N,)."""

    def state(self) -> State:
        """Return a copy of the state; waits."""

    def load(self, state: State, *, optimizer: bool) -> None:
        """Take over the values of a state, and with `optimizer` all else that training needs.

        Raises
        ------
        GluonexpError
            The state is another network's or another optimizer's; nothing has changed then.
        """

    def freeze(self, plan: FreezePlan) -> None:
        """Train as `plan` says when training begins."""

    def release(self, names: Collection[str]) -> None:
        """Train these frozen parameters, and move these frozen statistics, from now on."""

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """Return the sha256 of the value of each of these parameters, by name; waits."""

    def publish(self) -> None:
        """Put the values into the Gluon network, for export; waits. No `step` comes after it."""


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def score(engine: Engine, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Scores:
    """Return the scores of logits (N, K) for labels (N,)."""
    losses = engine.losses(logits, labels).astype(np.float64)
    acc = float((logits.argmax(axis=1) == labels).mean())
    return Scores(float(losses.mean()), acc, len(labels))
