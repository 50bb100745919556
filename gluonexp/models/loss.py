"""Loss blocks: (logits, labels) to one value a sample."""

from gluonexp.base.errors import GluonexpError
from gluonexp.base.mx import gluon


class SmoothedSoftmaxCrossEntropy(gluon.loss.Loss):
    """Cross-entropy with labels that are a little uniform (Szegedy et al., 2016, section 7).

    Of K classes the true one has the probability 1 - s + s / K, every other one s / K.
    """

    def __init__(self, smoothing: float) -> None:
        super().__init__(weight=None, batch_axis=0)
        self._smoothing = smoothing

    def hybrid_forward(self, F, logits, labels):  # type: ignore[no-untyped-def]
        """Return the losses (N,) of logits (N, K) and labels (N,); `F` is `nd` or `sym`."""
        logs = F.log_softmax(logits, axis=-1)
        sharp, uniform = F.pick(logs, labels, axis=-1), F.mean(logs, axis=-1)
        return -(1 - self._smoothing) * sharp - self._smoothing * uniform


def softmax_cross_entropy(label_smoothing: float = 0.0) -> gluon.loss.Loss:
    """Return softmax cross-entropy of logits (N, K) and integer labels (N,), shape (N,).

    Parameters
    ----------
    label_smoothing
        In [0, 1): the share of a label that is spread evenly over all classes. One criterion
        measures every split, as in PyTorch and Keras: train and validation loss stay comparable,
        runs of different smoothing compare by accuracy.

    Raises
    ------
    GluonexpError
        If `label_smoothing` is out of its range.
    """
    if not 0 <= label_smoothing < 1:
        raise GluonexpError(f"loss.label_smoothing={label_smoothing}: must be in [0, 1)")
    if label_smoothing:
        return SmoothedSoftmaxCrossEntropy(label_smoothing)
    return gluon.loss.SoftmaxCrossEntropyLoss()
