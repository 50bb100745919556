"""Make the bundled weights of the last stage's run: fold BatchNorm, round to float16, check.

python fold.py RUN_ID OUT.safetensors
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pretrain import CONVOLUTIONS, RECIPE, alexnet_bn
from safetensors.numpy import save_file

from gluonexp import assembly, tracking
from gluonexp.assembly import engines, networks
from gluonexp.base.mx import mx, nd, nn
from gluonexp.models.finetune import alexnet_ft
from gluonexp.run import compose
from gluonexp.tracking.artifacts import of_run

EPSILON = 1e-5  # of BatchNorm


def folded(stored: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float16]]:
    """Return the convolutions of `pretrain.alexnet_bn` as the zoo's AlexNet has them."""
    arrays: dict[str, NDArray[np.float16]] = {}
    source = target = 0
    for *_, pool in CONVOLUTIONS:
        weight = stored[f"0.{source}.weight"]
        gamma, beta, mean, variance = (
            stored[f"0.{source + 1}.{part}"]
            for part in ("gamma", "beta", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        arrays[f"features.{target}.weight"] = (weight * scale[:, None, None, None]).astype("f2")
        arrays[f"features.{target}.bias"] = (beta - mean * scale).astype("f2")
        source += 3 + pool  # convolution, BatchNorm, ReLU
        target += 1 + pool  # convolution with ReLU
    return arrays


def main() -> None:
    """Fold, evaluate both networks on the run's own validation split, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_id", help="of pretrain.py's last stage")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    client = tracking.open_store(None)
    run = tracking.find_run(client, given.run_id)
    with tempfile.TemporaryDirectory() as temporary:
        folder = of_run(client, run.info.run_id).fetch("checkpoint", Path(temporary))
        trained = alexnet_bn(10, str(folder / "model.params"))
        stored = {name: a.asnumpy() for name, a in nd.load(str(folder / "model.params")).items()}
        trained.load_parameters(str(folder / "model.params"))
        metrics = json.loads((folder / "meta.json").read_text("utf-8"))["metrics"]
    arrays = folded(stored)

    plain = alexnet_ft(10, head=[], weights="none")
    values = {name.replace("features.", "backbone."): a.astype("f4") for name, a in arrays.items()}
    values |= {f"head.0.{part}": stored[f"1.2.{part}"] for part in ("weight", "bias")}
    for name, parameter in plain._collect_params_with_prefix().items():
        parameter.shape = values[name].shape
        parameter.initialize(mx.init.Constant(nd.array(values[name])))

    config = compose(*RECIPE, f"dataset.resize={run.data.params['dataset.resize']}")
    plan = assembly.components(config)
    val = assembly.data(config, plan.source).val
    assert val is not None
    accuracy = {
        name: _accuracy(net, config, plan, val)
        for name, net in (("trained", trained), ("folded, float16", plain))
    }
    print(accuracy)
    title = (
        "AlexNet's convolutions, trained by gluonexp on CIFAR-10 (JPEG), 224 px, validation "
        f"accuracy {accuracy['folded, float16']:.4f}"
    )
    metadata = {
        "title": title,
        "run_id": run.info.run_id,
        "val_acc_trained": f"{metrics['val/acc']:.4f}",
        "val_acc": f"{accuracy['folded, float16']:.4f}",
        "recipe": "experiments/bundled_alexnet",
        "licence": "Apache-2.0",
    }
    save_file(arrays, given.out, metadata)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.2f} MB; {title}")


def _accuracy(net: nn.HybridBlock, config, plan, split) -> float:
    spec = plan.source.spec()
    steps = networks.preprocessing(config.dataset, spec)
    net.hybridize(static_alloc=True, static_shape=True)
    return engines.engine(config, plan, net, steps, spec, mx.cpu()).evaluate(split, 64).acc


if __name__ == "__main__":
    main()
