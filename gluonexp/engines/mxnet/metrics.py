"""Loss and top-1 accuracy, summed where they are computed and weighted by sample."""

from gluonexp.base.mx import mx, nd


class Meter:
    """Running sums on the device; nothing waits for it until `read`.

    A short last batch counts with its true size, which averaging per-batch means would not do.
    """

    def __init__(self, device: mx.Context) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Start from nothing."""
        self._loss = nd.zeros((1,), ctx=self._device)
        self._correct = nd.zeros((1,), ctx=self._device)
        self.samples = 0

    def update(self, losses: nd.NDArray, logits: nd.NDArray, labels: nd.NDArray) -> None:
        """Add one batch: losses (N,), logits (N, K), labels (N,) float32."""
        self._loss += losses.sum()
        self._correct += (logits.argmax(axis=1) == labels).sum()
        self.samples += len(labels)

    def read(self) -> dict[str, float]:
        """Return mean loss and accuracy in [0, 1] so far (device sync)."""
        if not self.samples:
            return {"loss": float("nan"), "acc": float("nan")}
        return {
            "loss": self._loss.asscalar() / self.samples,
            "acc": self._correct.asscalar() / self.samples,
        }
