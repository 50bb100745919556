"""How an export is loaded, by each runtime that it has files for: code for its card."""

from __future__ import annotations

import json
from pathlib import Path

from gluonexp.base.markdown import code
from gluonexp.model_folder import names
from gluonexp.model_folder.signature import ArraySignature, Signature

_GLUONEXP = """\
import gluonexp.api as gx

model = gx.load("FOLDER")  # also a run, or "models:/NAME@champion"
print(model("photo.png"))"""

_MODULE = """\
import mxnet as mx

symbol, arguments, auxiliary = mx.model.load_checkpoint("model", 0)
module = mx.mod.Module(symbol, data_names=[{name}], label_names=None)
module.bind([({name}, {shape})], for_training=False)
module.set_params(arguments, auxiliary)
block = mx.gluon.SymbolBlock.imports(
    "model-symbol.json", [{name}], "model-0000.params"
)  # the same as a Gluon block"""

_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{{name}: inputs}})  # float32 {takes}"""

_TORCH = """\
from model import CLASSES, Network, prepare
from safetensors.torch import load_file

network = Network()
network.load_state_dict(load_file("model.safetensors"))
network.eval()
logits = network(prepare(images))  # a tensor of uint8, {image}"""

_VERIFY = "gluonexp verify FOLDER  # is it still what was certified?"
_COMMANDS = f"gluonexp predict FOLDER photo.png\n{_VERIFY}"

_MLFLOW = """\
import mlflow

model = mlflow.pyfunc.load_model("models:/NAME@champion")
print(model.predict({argument}))  # {what}"""


def loading(folder: Path, told: Signature | ArraySignature) -> str:
    """Return a block of code for each way to load the export in `folder`."""
    name = json.dumps(told.input)
    images = isinstance(told, Signature)
    sides = told.shape[1:] if isinstance(told, Signature) else told.shape
    parts = []
    if images:
        parts += ["With gluonexp, images as files or arrays:", code(_GLUONEXP, "python")]
    parts += ["By its commands:", code(_COMMANDS if images else _VERIFY, "sh")]
    if sides is not None and None not in sides:
        shape = f"(1, {', '.join(map(str, sides))}{',' * (not sides)})"
        takes = f"(N, {', '.join(map(str, sides))})"
        inputs = "after the steps above" if images else "as they are"
        parts += [
            f"With MXNet, in this folder; the network takes inputs {inputs}:",
            code(_MODULE.format(name=name, shape=shape), "python"),
        ]
        if (folder / names.ONNX).exists():
            parts += ["With ONNX Runtime:", code(_ONNX.format(name=name, takes=takes), "python")]
    if isinstance(told, Signature) and (folder / names.TORCH[0]).exists():
        image = f"(N, {', '.join(map(str, told.image))})"
        parts += ["With PyTorch alone:", code(_TORCH.format(image=image), "python")]
    argument = "images" if images else "inputs"
    what = "uint8, as above; a class and probabilities each" if images else "as above"
    parts += ["Once registered, with MLflow:"]
    parts += [code(_MLFLOW.format(argument=argument, what=what), "python")]
    return "\n\n".join(parts)
