"""`gluonexp predict, verify, export, download`: by hand, on a run that is in a store."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from gluonexp import experiment
from gluonexp.base.files import sha256
from gluonexp.base.mx import mx
from gluonexp.cli import main
from gluonexp.data.images import decode
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder import samples
from gluonexp.run import compose as composed
from gluonexp.tracking import ensure_experiment, open_store
from gluonexp.verification import runtimes

COMMANDS = ("predict", "evaluate", "verify", "export", "download")


class Trained:
    """A store with a run, a registered model, and sweeps with and without a best run."""

    def __init__(self, folder):
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        overrides = ["model=mlp", "trainer.epochs=1", "dataset.source.size=8"]
        config = composed(*overrides, f"tracking.uri={self.uri}")
        console = Console(file=io.StringIO())
        self.result = experiment.run(config, folder / "job", overrides, console)
        self.run_id = self.result.run_id
        self.client = open_store(self.uri)
        self.artifacts = next((folder / "mlruns/artifacts").glob(f"*/{self.run_id}/artifacts"))
        self.client.create_registered_model("digits")
        self.client.create_model_version("digits", f"{self.artifacts}/export", self.run_id)
        self.client.set_registered_model_alias("digits", "champion", "1")
        self.sweep = self.parent(**{"gluonexp.sweep.best": self.run_id})
        self.begun = self.parent()

    def parent(self, **tags):
        number = ensure_experiment(self.client, "sweeps", self.uri)
        tags |= {"gluonexp.kind": "sweep"}
        run = self.client.create_run(number, tags=tags).info.run_id
        self.client.set_terminated(run)
        return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def invoke(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments, status=0):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == status, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


def table(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


@pytest.fixture
def photos(tmp_path):
    """Write images of many sizes into folders."""
    rng = np.random.default_rng(0)
    paths = []
    for place, size in (("a/1.png", 8), ("a/2.jpg", 30), ("b/7/3.png", 9), ("b/[x].bmp", 12)):
        path = tmp_path / "photos" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        paths.append(path.relative_to(tmp_path).as_posix())
    return paths


# --- the commands themselves ---------------------------------------------------------------------


def test_help_has_examples_and_loads_nothing(tmp_path):
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom gluonexp.cli import main\n"
        "for name in sys.argv[1:]:\n"
        "    done = CliRunner().invoke(main, [name, '--help'])\n"
        "    assert done.exit_code == 0 and f'  gluonexp {name} ' in done.output, done.output\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *COMMANDS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    heavy = {"mxnet", "mlflow", "matplotlib", "sklearn", "pandas", "hydra", "numpy", "onnx"}
    assert heavy & set(done.stdout.split()) == set()


def test_models_are_completed(trained):
    command = main.commands["predict"]
    context = command.make_context("predict", ["--tracking-uri", trained.uri, "x"])
    offered = command.params[0].shell_complete(context, "")
    names = [item.value for item in offered]
    assert names[0] == "last"
    assert set(names[1:]) == {trained.run_id, trained.sweep, trained.begun}
    offered = command.params[0].shell_complete(context, "models:/d")
    assert [item.value for item in offered] == ["models:/digits@champion"]
    folders = command.params[0].shell_complete(context, "./ex")
    assert [(item.value, item.type) for item in folders] == [("./ex", "dir")]
    nowhere = command.make_context("predict", ["--tracking-uri", "sqlite:////no/x.db", "x"])
    assert [item.value for item in command.params[0].shell_complete(nowhere, "l")] == ["last"]


# --- what MODEL means ----------------------------------------------------------------------------


def test_every_name_means_the_same_model(trained, invoke, photos):
    wanted = table(invoke("predict", "last", *photos, "--csv"))
    assert len(wanted) == len(photos)
    names = [
        *(trained.run_id, trained.run_id[:6], f"runs:/{trained.run_id}"),
        *("models:/digits/1", "models:/digits@champion"),
        *(trained.sweep, trained.sweep[:8], f"runs:/{trained.sweep}"),
        *(str(trained.artifacts), str(trained.artifacts / "export")),
    ]
    for name in names:
        assert table(invoke("predict", name, *photos, "--csv")) == wanted, name


@pytest.mark.parametrize("command", ["predict", "evaluate", "verify"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("abcdef01", "no run id begins with abcdef01"),
        ("nothing", "nothing"),
        ("models:/digits/7", "version 7 of model digits"),
        ("models:/digits", "models:/NAME@ALIAS"),
        ("photos", "signature.json is missing"),
        ("BEGUN", "has no best run yet"),
    ],
)
def test_what_means_no_model_is_told(trained, invoke, photos, command, name, message):
    name = trained.begun if name == "BEGUN" else name
    result = invoke(command, name, *(photos if command == "predict" else []), status=1)
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("status", "why"), [("FINISHED", "export=none?"), ("FAILED", "it is FAILED")]
)
def test_a_run_without_an_export_is_named(invoke, tmp_path, status, why):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_store(uri)
    run_id = client.create_run(ensure_experiment(client, "bare", uri)).info.run_id
    client.set_terminated(run_id, status)
    names = {run_id: "", f"runs:/{run_id}/model": " in model/"}
    names |= {"last": ""} if status == "FINISHED" else {}
    for name, where in names.items():
        told = invoke("predict", name, "x.png", "--tracking-uri", uri, status=1).stderr
        assert told == (
            f"Error: run {run_id[:8]} has no export{where} ({why}); name another run, or the "
            "folder that holds model-symbol.json\n"
        )


# --- predict -------------------------------------------------------------------------------------


def test_without_images_its_own_examples(invoke):
    lines = invoke("predict", "last").stdout.splitlines()
    assert lines[0].split() == ["image", "predicted", "probability", "true"]
    assert [line.split()[-1] for line in lines[1:]] == list("0123456789")


def test_a_file_that_cannot_be_written_is_told(trained, invoke, photos, tmp_path):
    (tmp_path / "file").touch()
    told = invoke("predict", "last", photos[0], "--plot", "file/plot.png", status=1).stderr
    assert told == "Error: file cannot be used: it is no folder\n"
    told = invoke("predict", "last", photos[0], "--plot", "/proc/plot.png", status=1).stderr
    assert told == "Error: /proc/plot.png cannot be used: No such file or directory\n"


def test_any_name_of_a_file_is_shown_and_drawn(trained, invoke, photos, tmp_path):
    image = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos[0], image)
    plot = tmp_path / os.fsdecode(b"plot\xe9.png")
    assert "caf\\udce9.png" in invoke("predict", "last", str(image), "--plot", str(plot)).stdout
    assert plot.stat().st_size > 0
    to = tmp_path / os.fsdecode(b"copy\xe9")
    assert "checked" in invoke("download", "last", "config", "--to", str(to)).stdout
    made = invoke("export", "last", "--to", str(tmp_path / os.fsdecode(b"net\xe9"))).stdout
    assert made.startswith(f"written: {tmp_path}/net\\udce9\n")


def test_the_table_for_programs_is_complete(trained, invoke, photos):
    rows = table(invoke("predict", "last", "photos", "--csv"))
    assert [row["image"] for row in rows] == sorted(photos)
    assert [row["true"] for row in rows] == ["", "", "7", ""]  # the folder of the third
    classes = [str(index) for index in range(10)]
    classifier = Classifier(trained.artifacts / "export")
    images = np.stack([decode(row["image"], 8, 8, 1) for row in rows])
    for row, expected in zip(rows, classifier.probabilities(images), strict=True):
        found = [float(row[f"probability.{name}"]) for name in classes]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert row["predicted"] == classes[int(np.argmax(found))]
        assert float(row["probability"]) == max(found)


def test_the_likeliest_classes(invoke, photos):
    whole = table(invoke("predict", "last", *photos, "--csv"))
    ranked = table(invoke("predict", "last", *photos, "--csv", "--top", "3"))
    head = ["predicted", "probability", "predicted.2", "probability.2"]
    head += ["predicted.3", "probability.3"]
    assert list(ranked[0]) == ["image", "true", *head]
    for row, known in zip(ranked, whole, strict=True):
        order = sorted(map(str, range(10)), key=lambda name: -float(known[f"probability.{name}"]))
        assert [row[name] for name in head[::2]] == order[:3]
        assert row["probability.3"] == known[f"probability.{order[2]}"]
    assert len(table(invoke("predict", "last", photos[0], "--csv", "--top", "99"))[0]) == 22
    shown = invoke("predict", "last", *photos[1:3], "--top", "2").stdout.splitlines()
    expected = []
    for title, row in zip(("a/2.jpg", "7/3.png  (true: 7)"), ranked[1:3], strict=True):
        expected += [
            title,
            f"  1.  {row['predicted']}  {float(row['probability']):.4f}",
            f"  2.  {row['predicted.2']}  {float(row['probability.2']):.4f}",
        ]
    assert [line.rstrip() for line in shown] == expected


def test_long_names_stay_whole_on_a_narrow_terminal(
    trained, invoke, photos, tmp_path, monkeypatch
):
    names = [f"African bush elephant, number {index}" for index in range(9)]
    names.append(f"a name too long for the line: {'x' * 60}")
    (tmp_path / "names.txt").write_text("\n".join(names))
    network = [
        *("--symbol", str(trained.artifacts / "export/model-symbol.json")),
        *("--params", str(trained.artifacts / "export/model-0000.params")),
    ]
    invoke("export", *network, "--input", "1x8x8", "--classes", "names.txt", "--to", "named")
    monkeypatch.setenv("COLUMNS", "80")
    shown = invoke("predict", "named", photos[0], "--top", "10").stdout.splitlines()
    (row,) = table(invoke("predict", "named", photos[0], "--csv"))
    ranked = sorted(names, key=lambda name: -float(row[f"probability.{name}"]))
    assert shown[0] == "a/1.png"
    assert max(map(len, shown)) <= 80
    assert len(shown) == 1 + 11  # one name takes two lines
    for rank, name in enumerate(ranked, 1):
        (line,) = (line for line in shown if line.startswith(f"{rank}.".rjust(5)))
        assert line.split()[-1] == f"{float(row[f'probability.{name}']):.4f}"
        assert name in line or name == names[-1]


def test_without_examples_the_samples_of_the_export(trained, invoke, tmp_path):
    shutil.copytree(trained.artifacts / "export", tmp_path / "copy")
    held = samples.read(tmp_path / "copy")
    rows = table(invoke("predict", "copy", "--csv", "--plot", "answers.png"))
    assert [row["image"] for row in rows] == [f"samples.safetensors/{i}" for i in range(256)]
    assert [int(row["true"]) for row in rows] == held.labels.tolist()
    assert [int(row["predicted"]) for row in rows] == held.logits.argmax(axis=1).tolist()
    with Image.open(tmp_path / "answers.png") as picture:
        assert picture.format == "PNG"
    strange = samples.ProofSamples(held.images, held.labels + 1, held.logits, held.classes)
    samples.write(tmp_path / "copy", strange)
    told = invoke("predict", "copy", status=1).stderr
    assert told == "Error: copy/samples.safetensors is not of this network\n"
    (tmp_path / "copy" / "samples.safetensors").unlink()
    told = invoke("predict", "copy", status=2).stderr
    assert "copy: no example images are there; name IMAGES" in told


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["photos/a/*.png"], ["a/1.png"]),
        (["photos/**/*.png"], ["a/1.png", "b/7/3.png"]),
        (["photos/?"], ["a/1.png", "a/2.jpg", "b/7/3.png", "b/[x].bmp"]),
        (["photos/b/[x].bmp"], ["b/[x].bmp"]),  # a name, and no pattern
        (["photos/b", "photos/a/2.jpg"], ["b/7/3.png", "b/[x].bmp", "a/2.jpg"]),
    ],
)
def test_files_folders_and_patterns(invoke, photos, given, found):
    rows = table(invoke("predict", "last", *given, "--csv"))
    assert [row["image"] for row in rows] == [f"photos/{name}" for name in found]


def test_the_true_class_is_the_folder_whatever_its_name(trained, invoke, photos, tmp_path):
    names = ["c++", "a&b", "rock'n'roll", "a:b", "a;b", "a_b", "[old]", ":cat:", "$x$", "link"]
    copied = shutil.copytree(trained.artifacts / "export", tmp_path / "export")
    signature = json.loads((copied / "signature.json").read_text())
    (copied / "signature.json").write_text(json.dumps(signature | {"classes": names}))
    for name in names[:-1]:
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(tmp_path / photos[0], tmp_path / "in" / name / "1.png")
    shutil.copytree(tmp_path / "in" / "$x$", tmp_path / "elsewhere")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    files = [f"in/{name}/1.png" for name in names]
    rows = table(invoke("predict", "export", *files, "--csv"))
    assert [row["true"] for row in rows] == names
    shown = invoke("predict", "export", *files, "--plot", "p.png").stdout
    assert all(name in shown for name in names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photos/c", "photos/c: no such image or folder"),
        ("photos/*.gif", "photos/*.gif: nothing matches this pattern"),
        ("empty", "empty: no images"),
        ("pipe.png", "pipe.png: neither a file nor a folder"),
    ],
)
def test_a_path_without_images_is_told(invoke, photos, tmp_path, given, message):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    result = invoke("predict", "last", photos[0], given, "--csv", status=1)
    assert message in result.stderr
    assert result.stdout == ""


def test_an_unreadable_image_is_named_and_the_others_go_on(invoke, photos, tmp_path):
    (tmp_path / "photos/a/broken.png").write_bytes((tmp_path / photos[0]).read_bytes()[:60])
    (tmp_path / "photos/a/text.png").write_text("no image")
    result = invoke("predict", "last", "photos", "--csv", "--plot", "answers.png", status=1)
    assert [row["image"] for row in table(result)] == sorted(photos)
    told = result.stderr.splitlines()
    assert [line for line in told if line.startswith("Error: photos/a/broken.png: ")]
    assert "Error: photos/a/text.png: not a JPEG, PNG, WebP or BMP image" in told
    with Image.open(tmp_path / "answers.png") as picture:
        assert picture.format == "PNG"
    only = invoke("predict", "last", "photos/a/text.png", status=1)
    assert only.stdout == ""
    large = invoke("predict", "last", photos[0], "--max-pixels", "9", status=1)
    assert "pixels are more than 9, the most that are read; allow more with" in large.stderr


def test_more_images_than_a_batch(invoke, photos, tmp_path):
    (tmp_path / "many").mkdir()
    for index in range(130):
        shutil.copyfile(photos[index % 2 * 2], tmp_path / "many" / f"{index:03d}.png")
    rows = table(invoke("predict", "last", "many", "--csv", "--plot", "many.png"))
    one = table(invoke("predict", "last", photos[0], photos[2], "--csv"))
    assert [row["predicted"] for row in rows] == [one[i % 2]["predicted"] for i in range(130)]
    assert float(rows[129]["probability"]) == pytest.approx(float(one[1]["probability"]))


def test_a_runtime_that_lacks_its_files_is_told(invoke, trained, photos, tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    for name in ("model-symbol.json", "model-0000.params", "signature.json"):
        shutil.copyfile(trained.artifacts / "export" / name, export / name)
    assert "int8" in invoke("predict", "export", *photos, "--runtime", "int8", status=1).stderr


# --- verify and export ---------------------------------------------------------------------------


@pytest.fixture
def bare(trained, tmp_path):
    """Return the artifacts of a run as they were before there were certificates."""
    network = ("model-symbol.json", "model-0000.params", "signature.json")
    for name in ("config/resolved.yaml", *(f"export/{file}" for file in network)):
        (tmp_path / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.artifacts / name, tmp_path / "old" / name)
    shutil.copyfile(
        trained.artifacts / "export/signature.json", tmp_path / "old/export/signature.json"
    )
    return tmp_path / "old"


def test_an_old_run_gets_its_certificate(trained, invoke, bare, tmp_path):
    assert "certificate.json is missing" in invoke("verify", "old", status=1).stderr
    with_onnx = bool(runtimes.versions("onnx"))
    with_torch = bool(runtimes.versions("torch"))
    formats = ["--preprocess", "graph", *(["--onnx"] if with_onnx else [])]
    formats += ["--torch"] if with_torch else []
    result = invoke("export", "old", *formats, "--to", "new")
    assert result.stdout.startswith("written: new\n")
    made = {"README.md", "certificate.json", "samples.safetensors"}
    made |= {"uint8-symbol.json", "uint8-0000.params"}
    made |= {"model.onnx", "uint8.onnx"} if with_onnx else set()
    made |= {"model.py", "model.safetensors"} if with_torch else set()
    before = set(os.listdir(bare / "export"))
    assert set(os.listdir(tmp_path / "new")) == before | made
    assert not list(tmp_path.glob(".*"))
    certificate = json.loads((tmp_path / "new" / "certificate.json").read_text())
    assert certificate["images"] == 256
    shown = invoke("verify", "new").stdout
    assert "logits within" in shown
    assert {*certificate["runtimes"]} <= set(shown.split())
    (tmp_path / "new" / "signature.json").write_text(
        (tmp_path / "new" / "signature.json").read_text().replace('"3"', '"8"', 1)
    )
    assert "signature.json" in invoke("verify", "new", status=1).stderr
    assert "new exists" in invoke("export", "old", "--to", "new", status=1).stderr


def test_another_certificate_than_the_run_recorded(trained, invoke):
    invoke("verify", "last")
    path = trained.artifacts / "export/certificate.json"
    own = path.read_bytes()
    tags = trained.client.get_run(trained.run_id).data.tags
    assert tags["gluonexp.export.certificate"] == sha256(path)  # as runs have it ever since
    fields = json.loads(own)
    path.write_text(json.dumps(fields | {"date": "2001-01-01T00:00:00+00:00"}))
    try:
        told = invoke("verify", trained.run_id, status=1).stderr
        assert "certificate.json is not the one its run recorded" in told
        invoke("verify", str(trained.artifacts))  # of a folder nobody knows what was recorded
    finally:
        path.write_bytes(own)


def test_a_network_from_elsewhere_becomes_an_export(trained, invoke, photos, tmp_path):
    network = [
        *("--symbol", str(trained.artifacts / "export/model-symbol.json")),
        *("--params", str(trained.artifacts / "export/model-0000.params")),
    ]
    result = invoke("export", *network, "--input", "1x8x8", "--to", "adopted")
    assert "not certified" in result.stderr
    wanted = table(invoke("predict", "last", *photos, "--csv"))
    assert table(invoke("predict", "adopted", *photos, "--csv")) == wanted
    (tmp_path / "names.txt").write_text("\n".join(f"digit {index}" for index in range(10)))
    invoke("export", *network, "--input", "1x8x8", "--classes", "names.txt", "--to", "named")
    named = table(invoke("predict", "named", *photos, "--csv"))
    assert [row["predicted"] for row in named] == [f"digit {row['predicted']}" for row in wanted]
    data = ["dataset=digits", "dataset.source.size=8"]
    mx.sym.softmax(mx.sym.load(network[1]), name="softmax0").save("net-symbol.json")
    network[1] = "net-symbol.json"
    shown = invoke("export", *network, "--input", "1x8x8", "--to", "proved", *data).stdout
    assert "note: softmax0 (softmax) at the end is cut off" in shown
    assert "logits within" in shown
    several = mx.sym.load(network[1])
    mx.sym.Group([several, several.get_internals()[3] + 1]).save("net-symbol.json")
    shown = invoke("export", *network, "--input", "1x8x8", "--output", "softmax0", "--to", "one")
    assert "note: the output softmax0 alone is taken" in shown.stdout
    assert table(invoke("predict", "one", *photos, "--csv")) == wanted
    (tmp_path / "names.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    given = ["--input", "1x8x8", "--classes", "names.txt", "--to", "x"]
    assert "names.txt is a git-LFS pointer" in invoke("export", *network, *given, status=1).stderr


def test_what_is_said_of_a_network_from_elsewhere_is_not_ignored_of_a_run(invoke):
    told = invoke("export", "last", "--to", "x", "--output", "y", "--mean", "0", status=2).stderr
    assert "--output, --mean: said of a network from elsewhere, which --symbol and" in told


def test_unnamed_classes_are_those_of_the_data(trained, invoke, tmp_path):
    network = [
        *("--symbol", str(trained.artifacts / "export/model-symbol.json")),
        *("--params", str(trained.artifacts / "export/model-0000.params"), "--input", "1x8x8"),
    ]
    names = ["cat", "dog", *(f"number {index}" for index in range(8))]
    rng = np.random.default_rng(0)
    for name in names:
        for root in ("ten", *(["two"] if "number" not in name else [])):
            (tmp_path / root / name).mkdir(parents=True)
            for index in range(5):
                pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / root / name / f"{index}.png")
    ten = ["dataset=image_folder", "dataset.root=ten", "dataset.val_fraction=0"]
    shown = invoke("export", *network, "--to", "named", *ten).stdout
    assert (
        "note: the outputs are taken for the classes of the data, in their order: cat, dog, "
        "number 0, number 1, number 2 and 5 more\n"
    ) in shown
    assert "agree with the files themselves on 10 images of the test split" in shown
    assert json.loads((tmp_path / "named/signature.json").read_text())["classes"] == names
    told = invoke("export", *network, "--to", "x", *ten[::2], "dataset.root=two", status=1).stderr
    assert (
        "model-symbol.json has 10 outputs, the data 2 classes: name those of the network with "
        "--classes\n"
    ) in told
    (tmp_path / "names.txt").write_text("\n".join(names))
    given = ["--classes", "names.txt", *ten[::2], "dataset.root=two"]
    assert "note" not in invoke("export", *network, "--to", "given", *given).stdout
    assert samples.read(tmp_path / "given").labels.tolist() == [0, 1]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "name a MODEL"),
        (["--symbol", "s"], 2, "name all of"),
        (["--symbol", "s", "--params", "s", "--input", "8x8"], 2, "three sizes"),
        (["--symbol", "s", "--params", "s", "--input", "1x8x8", "--mean", "a"], 2, "numbers"),
        (["--symbol", "s", "--params", "s", "--input", "1x8x8"], 1, "not a symbol, or damaged"),
        (
            ["--symbol", "s", "--params", "s", "--input", "1x8x8", "--mean", "127"],
            *(1, "divided by 255: --mean 0.498 --std 0.003922"),
        ),
        (["last", "dataset=synthetic", "--int8"], 1, "not what this model was trained for"),
    ],
)
def test_an_export_that_cannot_be_made_leaves_nothing(
    invoke, tmp_path, arguments, status, message
):
    (tmp_path / "s").write_text("not a symbol")
    assert message in invoke("export", *arguments, "--to", "new", status=status).stderr
    assert os.listdir(tmp_path) == ["s"]


# --- download ------------------------------------------------------------------------------------


def test_what_there_is_to_download(trained, invoke):
    lines = invoke("download", "last", "--list").stdout.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    files = [path for path in trained.artifacts.rglob("*") if path.is_file()]
    assert listed == {
        path.relative_to(trained.artifacts).as_posix(): path.stat().st_size for path in files
    }
    lines = invoke("download", "models:/digits@champion", "--list").stdout.splitlines()
    names = {path.name for path in (trained.artifacts / "export").iterdir()}
    assert {line.split()[1] for line in lines} == names


def test_a_run_is_downloaded_and_used(trained, invoke, photos, tmp_path):
    first = invoke("download", trained.run_id[:8], "--to", "here").stdout
    count = sum(path.is_file() for path in trained.artifacts.rglob("*"))
    assert f"here: {count} files copied; " in first
    assert (
        f"0 files copied, {count} were there already"
        in invoke("download", trained.run_id, "--to", "here").stdout
    )
    wanted = table(invoke("predict", "last", *photos, "--csv"))
    assert table(invoke("predict", "here", *photos, "--csv")) == wanted
    invoke("download", "last", "export", "--to", "there")
    assert table(invoke("predict", "there", *photos, "--csv")) == wanted
    invoke("download", "models:/digits/1", "--to", "model")
    assert table(invoke("predict", "model", *photos, "--csv")) == wanted
    invoke("download", "last", "export/signature.json", "--to", "one")
    assert [path.name for path in (tmp_path / "one" / "export").iterdir()] == ["signature.json"]


def test_one_is_one(invoke):
    one = ["download", "last", "export/signature.json", "--to", "one"]
    assert invoke(*one).stdout == "one: 1 file copied; 0.0 MB, checked\n"
    again = "one: 0 files copied, 1 was there already; 0.0 MB, checked\n"
    assert invoke(*one).stdout == again


def test_a_folder_is_not_downloaded_but_may_have_the_name_of_a_run(trained, invoke, tmp_path):
    (tmp_path / "folder").mkdir()
    told = invoke("download", "folder", "--to", "x", status=1).stderr
    assert told == "Error: folder is a folder already: there is nothing to copy\n"
    run = trained.run_id[:8]
    for _ in range(2):
        invoke("download", run, "export/signature.json", "--to", run)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["last"], 2, "name the folder to copy to: --to DIR"),
        (["last", "--list", "--to", "x"], 2, "--to DIR"),
        (["last", "exports", "--to", "x"], 1, "has no exports; there is checkpoint, config"),
        (["abcdef", "--to", "x"], 1, "no run id begins with abcdef"),
        (["models:/none@a", "--to", "x"], 1, "version @a of model none"),
    ],
)
def test_what_cannot_be_downloaded_is_told(invoke, tmp_path, arguments, status, message):
    assert message in invoke("download", *arguments, status=status).stderr
    assert list(tmp_path.iterdir()) == []
