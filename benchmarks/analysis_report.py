"""
Tables of docs/analysis.md and its figure, from the results of ``benchmarks.analysis``.

    python -m benchmarks.analysis_report
"""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.learning import RESULTS
from benchmarks.report import markdown, number, put_table
from sb3_recurrent_offpolicy.analysis.probing import MEMORY, OBSERVATION, SHUFFLED, STACK, UNTRAINED

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = RESULTS / "analysis"
DOCS = Path(__file__).parents[1] / "docs" / "analysis.md"
WAYS = ("as it is", "zeroed", "exchanged", "imitator without memory")


def path_of(part: str, name: str) -> Path:
    """
    :param part: of ``benchmarks.analysis``
    :param name: of a model
    :return: of the result
    """
    stem = re.sub(r"[^\w.-]+", "_", name).strip("_")
    return FOLDER / part / f"{stem}.json"


def results(part: str) -> dict[str, dict[str, Any]]:
    """
    :param part: of ``benchmarks.analysis``
    :return: results by model
    """
    read = [json.loads(path.read_text()) for path in sorted((FOLDER / part).glob("*.json"))]
    return {result["model"]: result["found"] for result in read}


def memory_use_table() -> list[str]:
    rows = []
    for name, found in results("memory_use").items():
        intervals = found["intervals"].items()
        told = {way: f"{number(mean)} [{number(low)}, {number(high)}]" for way, (mean, low, high) in intervals}
        smallest = found["smallest_memory"]
        rows.append(
            [
                name,
                *(told.get(way, "") for way in WAYS),
                "yes" if found["uses_memory"] else "no",
                "yes" if found["needs_memory"] else "no",
                "more than 64" if smallest is None else str(smallest),
            ]
        )
    verdicts = ["uses memory", "needs it", "steps that suffice"]
    return markdown(["model", *WAYS, *verdicts], rows)


def machine_table() -> list[str]:
    rows = []
    for name, found in results("machines").items():
        rows.append([name, "policy", "", "", number(found["original"]), "100 %", ""])
        worth = found["original"] - found["zeroed"]
        kept = (found["quantized"] - found["zeroed"]) / worth
        rows.append(["", "quantized", "", "", number(found["quantized"]), f"{100 * kept:.1f} %", ""])
        for kind, row in found["machines"].items():
            sizes = [str(row["states"]), str(row["symbols"])]
            shares = [f"{100 * row[share]:.1f} %" for share in ("kept", "asked")]
            rows.append(["", f"machine, {kind}", *sizes, number(row["mean"]), *shares])
    return markdown(["model", "", "states", "observations", "return", "kept", "asked"], rows)


def probe_table() -> list[str]:
    sources = [MEMORY, UNTRAINED, OBSERVATION, STACK, SHUFFLED]
    rows = []
    for name, quantities in results("probes").items():
        for quantity, found in quantities.items():
            rows.append([name, quantity, *(f"{found[source]['from step 10']:.3f}" for source in sources)])
    return markdown(["model", "quantity", *sources], rows)


def draw_probes() -> None:
    """Scores over time of what is hidden, one panel for each quantity; a line for each source."""
    panels = [(name, quantity, found) for name, of in results("probes").items() for quantity, found in of.items()]
    n_columns = 3
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=(11, 2.6 * n_rows), layout="constrained", squeeze=False)
    colors = {MEMORY: "tab:blue", UNTRAINED: "tab:cyan", OBSERVATION: "tab:orange", STACK: "tab:green", SHUFFLED: "tab:grey"}
    for axis, (name, quantity, found) in zip(axes.flat, panels, strict=False):
        for source, color in colors.items():
            axis.plot(np.clip(found[source]["by step"], -0.25, 1)[:100], color=color, label=source, lw=1.3)
        axis.set_title(f"{quantity}\n{name}", fontsize=8)
        axis.grid(alpha=0.3)
        axis.set_ylim(-0.3, 1.05)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.supxlabel("steps since the episode began", fontsize=9)
    figure.supylabel("R2 (accuracy of the cue)", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(FOLDER / "probes.png", dpi=110)
    plt.close(figure)


def write_report() -> None:
    """Write the tables into the documentation, and draw the figure."""
    for name, table in (("memory_use", memory_use_table), ("probes", probe_table), ("machines", machine_table)):
        put_table(DOCS, name, table())
    if results("probes"):
        draw_probes()


if __name__ == "__main__":
    write_report()
