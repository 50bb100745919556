"""Images per second of three loops over one network, timed in one process, in turns.

bare      the network, loss and Trainer on batches already in memory as float32: nothing else
gluonexp  gluonexp.training.loop.fit: bytes to batches, metrics, MLflow tracking, checkpoints
tutorial  DataLoader with a per-sample transform, and `asscalar` after every batch

The machine is shared and noisy: what counts is the ratio within a round, where the loops ran one
right after the other; the table shows its median over the rounds.

usage: python experiments/throughput/bench.py [--rounds N] [--images N] [--data fashion|synthetic]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from gluonexp import assembly, run
from gluonexp.assembly import networks
from gluonexp.base.mx import autograd, gluon, mx, nd
from gluonexp.config.schema import TrackingConfig
from gluonexp.data.batches import batches
from gluonexp.data.types import Split
from gluonexp.tracking import tracked_run
from gluonexp.training import callbacks, loop


def network(config, plan, spec):
    networks.seed(config.seed)
    steps = networks.preprocessing(config.dataset, spec)
    net = networks.network(config, plan.model, spec, steps)
    networks.initialize(config, net, spec, mx.cpu())
    return net, assembly.engine(config, plan, net, steps, spec, mx.cpu())


def bare(config, plan, spec, train):
    """Return a function that trains one epoch and returns its seconds."""
    net, engine = network(config, plan, spec)
    ready = [
        engine.put(batch.images, batch.labels)
        for batch in batches(train, config.trainer.batch_size)
    ]
    nd.waitall()

    def epoch():
        started = time.perf_counter()
        for inputs, labels in ready:
            with autograd.record():
                losses = engine.loss(net(inputs), labels)
            losses.backward()
            engine.trainer.step(len(labels))
        nd.waitall()
        return time.perf_counter() - started

    return epoch


class Clock(loop.Callback):
    """Notes when epochs start, so that all that happens between two of them counts."""

    def __init__(self):
        self.starts = []

    def epoch_start(self, fit):
        self.starts.append(time.perf_counter())


def ours(config, plan, spec, train, folder):
    """Return a function that runs two epochs and returns the seconds between their starts."""

    def epoch():
        _, engine = network(config, plan, spec)
        schedule = assembly.schedule(config, plan, len(train))
        clock = Clock()
        uri = f"sqlite:///{folder}/mlflow.db"
        with tracked_run(TrackingConfig(uri=uri, experiment="bench")) as tracker:
            loop.fit(
                engine,
                train,
                {},
                loop.Settings(
                    epochs=2,
                    batch_size=config.trainer.batch_size,
                    seed=config.seed,
                    schedule=schedule,
                    workdir=folder,
                    augment=plan.augment,
                ),
                callbacks=[
                    clock,
                    callbacks.Track(tracker, config.trainer.log_every),
                    callbacks.ShowProgress(Console(quiet=True)),
                    callbacks.StopOnDivergence(),
                    *plan.callbacks,
                ],
            )
        return clock.starts[1] - clock.starts[0]

    return epoch


def tutorial(config, plan, spec, train):
    """Return a function that trains one epoch the tutorial's way and returns its seconds."""
    net, _ = network(config, plan, spec)
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": config.optim.lr})
    loss = gluon.loss.SoftmaxCrossEntropyLoss()
    images = nd.array(train.images, dtype="uint8")
    dataset = gluon.data.ArrayDataset(images, train.labels.astype(np.float32))
    to_tensor = gluon.data.vision.transforms.ToTensor()
    loader = gluon.data.DataLoader(
        dataset.transform_first(to_tensor), config.trainer.batch_size, shuffle=True
    )

    def epoch():
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--data", choices=["auto", "fashion", "synthetic"], default="auto")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    options = parser.parse_args()

    config = run.compose("experiment=fashion_mnist_cnn", "device=cpu")
    plan = assembly.components(config)
    spec = plan.source.spec()
    title, train = load(config, plan, options)
    train = Split(train.images[: options.images], train.labels[: options.images])

    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "bare": bare(config, plan, spec, train),
            "gluonexp": ours(config, plan, spec, train, Path(folder)),
            "tutorial": tutorial(config, plan, spec, train),
        }
        seconds = {name: [] for name in loops}
        for _ in range(options.rounds):
            for name, epoch in loops.items():
                seconds[name].append(epoch())

    rates = {name: len(train) / statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: [other / own for other, own in zip(values, seconds["gluonexp"], strict=True)]
        for name, values in seconds.items()
    }
    table = pd.DataFrame(
        {
            "loop": list(rates),
            "images_per_s": [round(rate) for rate in rates.values()],
            "gluonexp_over_it": [round(statistics.median(r), 3) for r in ratios.values()],
            "lowest": [round(min(r), 3) for r in ratios.values()],
            "highest": [round(max(r), 3) for r in ratios.values()],
        }
    )
    shown = Table(
        title=f"{title}, {len(train):,} images, batch {config.trainer.batch_size}, "
        f"median of {options.rounds} rounds",
        title_justify="left",
    )
    for column in ("loop", "images/s", "gluonexp / loop", "rounds", "asked for"):
        shown.add_column(column, justify="left" if column == "loop" else "right")
    asked = {"bare": ">= 0.93", "gluonexp": "", "tutorial": ">= 1.3"}
    for row in table.itertuples():
        spread = f"{row.lowest:.3f} to {row.highest:.3f}"
        ratio = f"{row.gluonexp_over_it:.3f}"
        shown.add_row(row.loop, f"{row.images_per_s:,}", ratio, spread, asked[row.loop])
    Console().print(shown)
    if options.csv:
        table.to_csv(options.csv, index=False)


def load(config, plan, options):
    """Return Fashion-MNIST where it is at hand, and else images of its size."""
    if options.data != "synthetic":
        from gluonexp.data.root import data_root

        if (
            options.data == "fashion"
            or (data_root(config.dataset.root) / "fashion-mnist").exists()
        ):
            data = assembly.data(config, plan.source)
            return data.title, data.train
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(options.images, 28, 28, 1), dtype=np.uint8)
    return "random images", Split(images, rng.integers(0, 10, size=options.images))


if __name__ == "__main__":
    main()
