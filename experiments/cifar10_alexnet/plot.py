"""Draw features.png from results.csv: bundled against random frozen features, one dot a seed."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

COLORS = {"bundled": "#0072b2", "none": "#999999"}
NAMES = {"bundled": "bundled features", "none": "random features"}

here = Path(__file__).parent
results = pd.read_csv(here / "results.csv")
data = [title for title in results["data"].unique() if title != "CIFAR-10 (JPEG)"]  # no transfer
figure, axes = plt.subplots(figsize=(6.4, 2.2), layout="constrained")
for row, title in enumerate(data):
    for weights, color in COLORS.items():
        chosen = results[(results["data"] == title) & (results["weights"] == weights)]
        accuracy = chosen["test/acc"]
        label = NAMES[weights] if row == 0 else None
        axes.plot(accuracy, [row] * len(accuracy), "o", color=color, alpha=0.8, label=label)
        axes.plot([accuracy.mean()] * 2, [row - 0.18, row + 0.18], color=color, linewidth=2)
axes.axvline(0.1, color="#cccccc", linewidth=1, linestyle=":")
axes.annotate("chance", (0.11, 1.35), color="#777777", fontsize=8)
axes.set(
    xlim=(0, 1), ylim=(len(data) - 0.5, -0.6), xlabel="test accuracy after one epoch (bar: mean)"
)
axes.set_yticks(range(len(data)), data)
axes.spines[["top", "right", "left"]].set_visible(False)
axes.tick_params(left=False)
axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.1, 0.4))
figure.savefig(here / "features.png", dpi=150)
