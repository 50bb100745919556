"""Fine-tuning: AlexNet's pretrained features, a new classifier for CIFAR-10."""

import argparse
import time
from pathlib import Path

import numpy as np

np.bool = np.bool_  # MXNet 1.9.1 asks NumPy for it, which has removed it in 1.24

import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms
from mxnet.gluon.model_zoo import vision

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--root", type=Path, help="folder with CIFAR-10's .bin files, if not MXNet's")
parser.add_argument("--params", help="AlexNet's parameters, if they are not to be downloaded")
parser.add_argument("--output", type=Path, default=Path(), help="folder of what is saved")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--limit", type=int, help="use so many images of each split only")
args = parser.parse_args()

CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which AlexNet has seen

ctx = mx.gpu() if mx.context.num_gpus() else mx.cpu()
mx.random.seed(42)
np.random.seed(42)  # DataLoader shuffles by it


# --- Data: CIFAR-10, in the size that AlexNet takes ------------------------------------------


def cifar10(train):
    if args.root is None:
        return gluon.data.vision.CIFAR10(train=train).take(args.limit)
    files = sorted(args.root.glob("data_batch_*.bin" if train else "test_batch.bin"))
    records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
    images = records[: args.limit, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = records[: args.limit, 0].astype("int32")
    return gluon.data.ArrayDataset(nd.array(images, dtype="uint8"), labels)


train_set, test_set = cifar10(train=True), cifar10(train=False)
prepare = transforms.Compose(
    [transforms.Resize(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
)
train_data = gluon.data.DataLoader(
    train_set.transform_first(prepare), args.batch_size, shuffle=True
)
test_data = gluon.data.DataLoader(test_set.transform_first(prepare), args.batch_size)


# --- The network: what is known of images stays, the classifier is new -----------------------

if args.params:
    pretrained = vision.alexnet()
    pretrained.load_parameters(args.params, ctx=ctx)
else:
    pretrained = vision.alexnet(pretrained=True, ctx=ctx)

net = nn.HybridSequential()
net.add(pretrained.features[:-4])  # without its two dense layers and their dropout
net[0].collect_params().setattr("grad_req", "null")
classifier = nn.HybridSequential()
classifier.add(
    nn.Dense(4096, activation="relu"),
    nn.Dropout(0.5),
    nn.Dense(4096, activation="relu"),
    nn.Dropout(0.5),
    nn.Dense(len(CLASSES)),
)
classifier.initialize(mx.init.Xavier(), ctx=ctx)
net.add(classifier)
net.hybridize()


# --- Training --------------------------------------------------------------------------------

loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
trainer = gluon.Trainer(classifier.collect_params(), "sgd", {"learning_rate": args.lr})


def test_accuracy():
    accuracy = mx.metric.Accuracy()
    for data, label in test_data:
        accuracy.update(label.as_in_context(ctx), net(data.as_in_context(ctx)))
    return accuracy.get()[1]


def train():
    for epoch in range(args.epochs):
        started, total, accuracy = time.time(), 0.0, mx.metric.Accuracy()
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
        print(f"Epoch {epoch}. Loss: {loss:.3f}, Train acc {train_acc:.3f}, ", end="")
        print(f"Test acc {test_acc:.3f}, {time.time() - started:.1f} s")


train()
net.save_parameters(str(args.output / "fine_tuned.params"))
