"""A network, or what lies behind its frozen front, trained by MXNet's autograd and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from gluonexp.base.mx import autograd, gluon, mx, nd


class Computation(Protocol):
    """What an engine computes with: forward, backward and update, of images or of features."""

    def seed(self, seed: int) -> None:
        """Let all that is drawn from here on depend on this number alone."""

    def put(self, images: NDArray[Any]) -> Any:
        """Return what `logits` and `step` take: images (N, H, W, C), or features (N, ...)."""

    def logits(self, inputs: Any) -> nd.NDArray:
        """Return the logits (N, K) in prediction mode."""

    def step(
        self, inputs: Any, loss: Callable[[nd.NDArray], nd.NDArray]
    ) -> tuple[nd.NDArray, nd.NDArray, nd.NDArray | None]:
        """Move the parameters once, at the trainer's learning rate.

        Parameters
        ----------
        loss
            Takes logits (N, K) to a loss for each sample (N,).

        Returns
        -------
        losses, logits, grad_norm
            Shapes (N,) and (N, K), from before the update. The last is that of the mean gradient
            before it was shortened, shape (1,); None where gradients are not clipped.
        """


class Recorded:
    """Implements `Computation` for any block; nothing in it waits for MXNet.

    Parameters
    ----------
    block
        Gives the logits.
    preprocess
        Makes its input of images (N, H, W, C) uint8; None: it takes features as they are.
    trainer
        Has its parameters, which are on `device`.
    clip_norm
        As of `MXNetEngine`.
    """

    def __init__(
        self,
        block: gluon.Block,
        preprocess: gluon.Block | None,
        trainer: gluon.Trainer,
        device: mx.Context,
        clip_norm: float | None,
    ) -> None:
        self._block, self._preprocess = block, preprocess
        self._trainer, self._device, self._clip_norm = trainer, device, clip_norm

    def seed(self, seed: int) -> None:
        """MXNet's generators are the whole process's, and seeded by the engine."""

    def put(self, images: NDArray[Any]) -> nd.NDArray:
        """Return the block's input on the device."""
        if self._preprocess is None:
            return nd.array(images, ctx=self._device, dtype="float32")
        made: nd.NDArray = self._preprocess(nd.array(images, ctx=self._device, dtype="uint8"))
        return made

    def logits(self, inputs: nd.NDArray) -> nd.NDArray:
        """Return the logits (N, K)."""
        logits: nd.NDArray = self._block(inputs)
        return logits

    def step(
        self, inputs: nd.NDArray, loss: Callable[[nd.NDArray], nd.NDArray]
    ) -> tuple[nd.NDArray, nd.NDArray, nd.NDArray | None]:
        """Move the parameters once."""
        with autograd.record():
            logits = self.logits(inputs)
            losses = loss(logits)
        losses.backward()
        norm = None if self._clip_norm is None else self._clip(self._clip_norm, len(losses))
        self._trainer.step(len(losses))  # the true size, also of a short last batch
        return losses, logits, norm

    def _clip(self, longest: float, samples: int) -> nd.NDArray:
        """Shorten the gradients, sums over `samples`; return the mean's norm before, shape (1,).

        What is not finite in them stays so or becomes NaN: the next loss shows it.
        """
        gradients = [p.grad() for p in self._trainer._params if p.grad_req != "null"]
        flat = [gradient.reshape(-1) for gradient in gradients]
        # multi_sum_sq and norm add one by one in float32: of AlexNet's largest layer they lose 9 %
        # of the sum, where BLAS is 0.07 % off.
        norm = nd.add_n(*[nd.dot(vector, vector) for vector in flat]).sqrt() / samples
        scale = nd.minimum(longest / norm, 1)
        for gradient in gradients:
            gradient *= scale
        return norm
