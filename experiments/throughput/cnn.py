"""The small network: a loop that only trains, gluonexp's, and the tutorial's, in one process.

bare      the network, loss and Trainer on batches already in memory as float32: nothing else
gluonexp  gluonexp.training.loop.fit: bytes to batches, metrics, MLflow tracking, checkpoints
tutorial  DataLoader with a per-sample transform, and `asscalar` after every batch
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ours import QUIET, Clock

from gluonexp import assembly, run
from gluonexp.assembly import engines, networks
from gluonexp.base.mx import autograd, gluon, mx, nd
from gluonexp.config.schema import TrackingConfig
from gluonexp.data.batches import batches
from gluonexp.data.types import Split
from gluonexp.tracking import tracked_run
from gluonexp.training import callbacks, loop


class Timed:
    """A tracker whose calls are timed.

    Attributes
    ----------
    seconds
        Spent in them so far.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._tracker, name)
        return self._timed(value) if callable(value) else value

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started

        return call


class SmallCnn:
    """The fashion_mnist_cnn recipe by three loops."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.config = run.compose("experiment=fashion_mnist_cnn", "device=cpu")
        self.plan = assembly.components(self.config)
        self.spec = self.plan.source.spec()
        self.train = Split(np.asarray(images), np.asarray(labels, dtype=np.int64))
        self.size = self.config.trainer.batch_size
        self._bare = self._loop_bare()
        self._tutorial = self._loop_tutorial()

    def steps(self) -> int:
        """Return how many an epoch has."""
        return -(-len(self.train) // self.size)

    def bare(self) -> float:
        """Train one epoch; return its seconds."""
        return self._bare()

    def tutorial(self) -> float:
        """Train one epoch the tutorial's way; return its seconds."""
        return self._tutorial()

    def ours(self) -> tuple[float, float]:
        """Train two epochs; return the seconds between their starts, and those of tracking."""
        _, engine = self._network()
        schedule = assembly.schedule(self.config, self.plan, len(self.train))
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            tracking = TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db", experiment="bench")
            with tracked_run(tracking) as tracker:
                timed = Timed(tracker)
                loop.fit(
                    engine,
                    self.train,
                    {},
                    loop.Settings(
                        epochs=2,
                        batch_size=self.size,
                        seed=self.config.seed,
                        schedule=schedule,
                        workdir=Path(folder),
                        augment=self.plan.augment,
                    ),
                    callbacks=[
                        clock,
                        callbacks.Track(timed, self.config.trainer.log_every),
                        callbacks.ShowProgress(QUIET),
                        callbacks.StopOnDivergence(),
                        *self.plan.callbacks,
                    ],
                )
        return clock.starts[1] - clock.starts[0], timed.seconds / 2

    def _network(self) -> tuple[Any, Any]:
        networks.seed(self.config.seed)
        steps = networks.preprocessing(self.config.dataset, self.spec)
        net = networks.network(self.config, self.plan.model, self.spec, steps)
        networks.initialize(self.config, net, self.spec, mx.cpu())
        return net, engines.engine(self.config, self.plan, net, steps, self.spec, mx.cpu())

    def _loop_bare(self) -> Callable[[], float]:
        net, engine = self._network()
        ready = [
            engine.put(batch.images, batch.labels) for batch in batches(self.train, self.size)
        ]
        nd.waitall()

        def epoch() -> float:
            started = time.perf_counter()
            for inputs, labels in ready:
                with autograd.record():
                    losses = engine.loss(net(inputs), labels)
                losses.backward()
                engine.trainer.step(len(labels))
            nd.waitall()
            return time.perf_counter() - started

        return epoch

    def _loop_tutorial(self) -> Callable[[], float]:
        net, _ = self._network()
        settings = {"learning_rate": self.config.optim.lr}
        trainer = gluon.Trainer(net.collect_params(), "adam", settings)
        loss = gluon.loss.SoftmaxCrossEntropyLoss()
        images = nd.array(self.train.images, dtype="uint8")
        dataset = gluon.data.ArrayDataset(images, self.train.labels.astype(np.float32))
        to_tensor = gluon.data.vision.transforms.ToTensor()
        loader = gluon.data.DataLoader(dataset.transform_first(to_tensor), self.size, shuffle=True)

        def epoch() -> float:
            total, accuracy = 0.0, mx.metric.Accuracy()
            started = time.perf_counter()
            for inputs, labels in loader:
                with autograd.record():
                    logits = net(inputs)
                    losses = loss(logits, labels)
                losses.backward()
                trainer.step(len(labels))
                total += losses.mean().asscalar()
                accuracy.update(labels, logits)
            return time.perf_counter() - started

        return epoch
