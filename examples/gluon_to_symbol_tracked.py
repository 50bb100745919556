"""From Gluon to Symbol: train a small CNN on Fashion-MNIST, save it, predict with Module."""

import argparse
import gzip
import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

np.bool = np.bool_  # MXNet 1.9.1 asks NumPy for it, which has removed it in 1.24

import gluonexp.api as gx
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--root", type=Path, help="folder with the four idx files, if not MXNet's own")
parser.add_argument("--output", type=Path, default=Path(), help="folder of what is saved")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=256)
parser.add_argument("--lr", type=float, default=0.008)
parser.add_argument("--limit", type=int, help="use so many images of each split only")
args = parser.parse_args()

CLASSES = ["t-shirt/top", "trouser", "pullover", "dress", "coat"]
CLASSES += ["sandal", "shirt", "sneaker", "bag", "ankle boot"]

ctx = mx.gpu() if mx.context.num_gpus() else mx.cpu()
mx.random.seed(42)
np.random.seed(42)  # DataLoader shuffles by it
random.seed(42)


# --- Data ------------------------------------------------------------------------------------


def read_idx(name, header):
    path = args.root / name
    with gzip.open(path) if path.exists() else open(path.with_suffix(""), "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def fashion_mnist(train):
    if args.root is None:
        return gluon.data.vision.FashionMNIST(train=train).take(args.limit)
    part = "train" if train else "t10k"
    images = read_idx(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[: args.limit]
    labels = read_idx(f"{part}-labels-idx1-ubyte.gz", 8).astype("int32")[: args.limit]
    return gluon.data.ArrayDataset(nd.array(images, dtype="uint8"), labels)


train_set, test_set = fashion_mnist(train=True), fashion_mnist(train=False)
to_tensor = transforms.ToTensor()  # (28, 28, 1) of 0 to 255 becomes (1, 28, 28) of 0 to 1
train_data = gluon.data.DataLoader(
    train_set.transform_first(to_tensor), args.batch_size, shuffle=True
)
test_data = gluon.data.DataLoader(test_set.transform_first(to_tensor), args.batch_size)


# --- The network -----------------------------------------------------------------------------


class TwoDense(nn.HybridBlock):
    """A classifier of two dense layers."""

    def __init__(self, hidden, classes, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.hidden = nn.Dense(hidden, activation="relu")
            self.output = nn.Dense(classes)

    def hybrid_forward(self, F, x):
        return self.output(self.hidden(x))


net = nn.HybridSequential()
with net.name_scope():
    net.add(
        nn.Conv2D(channels=6, kernel_size=5, activation="relu"),
        nn.MaxPool2D(pool_size=2, strides=2),
        nn.Conv2D(channels=16, kernel_size=3, activation="relu"),
        nn.MaxPool2D(pool_size=2, strides=2),
        nn.Flatten(),
        TwoDense(120, len(CLASSES)),
    )
net.initialize(mx.init.Xavier(), ctx=ctx)
net.hybridize()


# --- Training --------------------------------------------------------------------------------

loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": args.lr})


def test_accuracy():
    accuracy = mx.metric.Accuracy()
    for data, label in test_data:
        accuracy.update(label.as_in_context(ctx), net(data.as_in_context(ctx)))
    return accuracy.get()[1]


def train():
    for epoch in range(args.epochs):
        total, accuracy = 0.0, mx.metric.Accuracy()
        for data, label in train_data:
            data, label = data.as_in_context(ctx), label.as_in_context(ctx)
            with autograd.record():
                output = net(data)
                loss = loss_function(output, label)
            loss.backward()
            trainer.step(len(data))
            total += loss.sum().asscalar()
            accuracy.update(label, output)
        loss, train_acc = total / len(train_set), accuracy.get()[1]
        test_acc = test_accuracy()
        print(f"Epoch {epoch}. Loss: {loss:.3f}, ", end="")
        print(f"Train acc {train_acc:.3f}, Test acc {test_acc:.3f}")
        run.log({"train/loss": loss, "train/acc": train_acc, "test/acc": test_acc}, step=epoch)


with gx.track("gluon-to-symbol", args, {"train": train_set, "test": test_set}) as run:
    train()
    run.export(net, test_set, CLASSES)


# --- Saved, as Gluon's parameters and as Symbol with its parameters --------------------------

net.save_parameters(str(args.output / "gluon.params"))
net.export(str(args.output / "fashion_mnist"), epoch=args.epochs)


# --- The Symbol, loaded by Module ------------------------------------------------------------

symbol, arg_params, aux_params = mx.model.load_checkpoint(
    str(args.output / "fashion_mnist"), args.epochs
)
module = mx.mod.Module(symbol, data_names=["data"], label_names=None, context=ctx)
module.bind(for_training=False, data_shapes=[("data", (1, 1, 28, 28))])
module.set_params(arg_params, aux_params)

image, label = test_set[random.randrange(len(test_set))]
module.forward(mx.io.DataBatch([to_tensor(image).expand_dims(0)]), is_train=False)
predicted = int(module.get_outputs()[0].argmax(axis=1).asscalar())

plt.imshow(image.squeeze().asnumpy(), cmap="gray")
plt.title(f"Predicted: {CLASSES[predicted]}, true: {CLASSES[int(label)]}")
plt.axis("off")
plt.savefig(args.output / "prediction.png")
print(f"Predicted: {CLASSES[predicted]}, true: {CLASSES[int(label)]}")
