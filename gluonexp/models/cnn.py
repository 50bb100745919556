"""The network of the *Gluon to Symbol* tutorial."""

from collections.abc import Sequence

from gluonexp.base.mx import nn


class TwoDense(nn.HybridBlock):
    """Dense with ReLU, then Dense: features (N, F) to logits (N, `classes`)."""

    def __init__(self, hidden: int, classes: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        with self.name_scope():
            self.hidden = nn.Dense(hidden, activation="relu")
            self.output = nn.Dense(classes)

    def hybrid_forward(self, F, x):  # type: ignore[no-untyped-def]
        """Return the logits; `F` is `nd` or `sym`."""
        return self.output(self.hidden(x))


def cnn(classes: int, channels: Sequence[int] = (20, 50), hidden: int = 256) -> nn.HybridBlock:
    """Return two convolutions with max pooling and a `TwoDense` head.

    Input (N, C, H, W) float32 with H, W of at least 14; output (N, `classes`) logits.
    """
    net = nn.HybridSequential()
    with net.name_scope():
        for filters, kernel in zip(channels, (5, 3), strict=True):
            net.add(nn.Conv2D(filters, kernel_size=kernel, activation="relu"))
            net.add(nn.MaxPool2D(pool_size=2, strides=2))
        net.add(nn.Flatten())
        net.add(TwoDense(hidden, classes))
    return net
