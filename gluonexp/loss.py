"""Loss blocks: (logits, labels) to one value a sample."""

from gluonexp.mx import gluon


def softmax_cross_entropy() -> gluon.loss.Loss:
    """Return softmax cross-entropy of logits (N, K) and integer labels (N,), shape (N,)."""
    return gluon.loss.SoftmaxCrossEntropyLoss()
