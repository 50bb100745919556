"""Time the float and the 8-bit network of every run below ./mlruns, in turns; print it as CSV.

Once with all instructions that the processor has, and once without VNNI: oneDNN is told so in a
process of its own (`DNNL_MAX_CPU_ISA`). One thread; what counts is the ratio within a round.

usage: python measure.py
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

INSTRUCTIONS = {"AVX2": "avx2", "AVX512_CORE": "avx512bw", "AVX512_CORE_VNNI": "avx512_vnni"}
ROUNDS, BATCH = 15, 16


def main():
    from gluonexp.tracking.read.runs import reader
    from gluonexp.tracking.references import fetch_export
    from gluonexp.tracking.store import open_store

    client = open_store(None)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    columns = ["network", "instructions", "float images/s", "int8 images/s"]
    rows.writerow([*columns, "int8 / float", "lowest", "highest", "layers", "kept float", "run"])
    flags = Path("/proc/cpuinfo").read_text().split()
    for run in reader(None).of_experiment("int8"):
        if run.status != "FINISHED" or "seed" not in run.params:  # a sweep itself has no seed
            continue
        folder = fetch_export(client, run.run_id, Path("downloads"))
        made = json.loads((folder / "int8.json").read_text())
        target = run.params["model._target_"].rpartition(".")[2]
        name = run.params.get("model.backbone", target)
        for instructions, flag in INSTRUCTIONS.items():
            if flag not in flags:
                continue
            environment = {"OMP_NUM_THREADS": "1", "DNNL_MAX_CPU_ISA": instructions}
            timed = subprocess.run(
                [sys.executable, __file__, str(folder)],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                check=True,
            )
            plain, quantized = json.loads(timed.stdout)
            ratios = [one / other for one, other in zip(plain, quantized, strict=True)]
            speeds = [f"{BATCH / statistics.median(each):.0f}" for each in (plain, quantized)]
            spread = [statistics.median(ratios), min(ratios), max(ratios)]
            layers = [made["layers"], len(made["kept_float"])]
            ratio = [f"{each:.2f}" for each in spread]
            rows.writerow([name, instructions, *speeds, *ratio, *layers, run.run_id[:8]])
            sys.stdout.flush()


def timed(folder):
    """Return the seconds of each round: of the float network's, and of the 8-bit one's."""
    import numpy as np

    from gluonexp.model_folder.signature import Signature
    from gluonexp.verification import runtimes

    _, *shape = Signature.read(folder).shape
    images = np.random.default_rng(0).random((BATCH, *shape), dtype=np.float32)
    loaded = [runtimes.load(folder, name) for name in ("module", "int8")]
    seconds = [[], []]
    for _ in range(ROUNDS + 1):
        for run, spent in zip(loaded, seconds, strict=True):
            started = time.perf_counter()
            run(images)
            spent.append(time.perf_counter() - started)
    return [spent[1:] for spent in seconds]  # the first binds and compiles


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(timed(Path(sys.argv[1]))))
    else:
        main()
