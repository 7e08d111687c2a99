"""Timing side by side: contenders alternate A B A B, medians and spread are kept, and only ratios are claimed."""

import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch as th
from tqdm import tqdm

Row = dict[str, Any]


def side_by_side(
    contenders: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """
    :param contenders: what to call, by name
    :param rounds: calls of each, after one of warm-up
    :param device: "cuda" waits for its kernels
    :param clock: ``time.process_time`` leaves out the time in which other processes run
    :return: seconds per call of each contender
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in tqdm(range(rounds + 1), desc=" / ".join(contenders), leave=False):
        for name, contender in contenders.items():
            start = clock()
            contender()
            if device == "cuda":
                th.cuda.synchronize()
            if turn > 0:
                seconds[name].append(clock() - start)
    return seconds


def summary(seconds: list[float], scale: float = 1.0) -> dict[str, float]:
    """
    :param seconds: measurements
    :param scale: factor on all of them
    :return: median, and the bounds of the middle 80 %
    """
    values = sorted(scale * value for value in seconds)
    return {"median": median(values), "low": values[len(values) // 10], "high": values[-1 - len(values) // 10]}


def row(what: str, ours: dict[str, float], against: str, theirs: dict[str, float]) -> Row:
    """
    :param what: was measured, with its unit
    :param ours: a summary
    :param against: name of the other contender
    :param theirs: its summary
    :return: a row of the table
    """
    return {"what": what, "ours": ours, "against": against, "theirs": theirs, "ratio": ours["median"] / theirs["median"]}


def table(rows: list[Row]) -> str:
    """
    :param rows: from :func:`row`
    :return: Markdown
    """

    def cell(value: dict[str, float]) -> str:
        spread = f" ({value['low']:.4g} to {value['high']:.4g})" if "low" in value else ""
        return f"{value['median']:.4g}{spread}"

    lines = ["| what | ours | against | theirs | ratio |", "|---|---|---|---|---|"]
    lines += [f"| {r['what']} | {cell(r['ours'])} | {r['against']} | {cell(r['theirs'])} | {r['ratio']:.2f} |" for r in rows]
    return "\n".join(lines)


def machine(device: str, threads: int) -> dict[str, Any]:
    """
    :param device: "cpu" or "cuda"
    :param threads: of torch
    :return: what a reader must know of the machine, and the command
    """
    return {
        "device": th.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": threads,
        "processor": processor(),
        "torch": th.__version__,
        "command": " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


def heading(stated: dict[str, Any]) -> list[str]:
    """
    :param stated: of the machine, from :func:`machine`, and of what was measured
    :return: Markdown, a line each
    """
    return [*(f"{key}: {value}  " for key, value in stated.items()), ""]


def processor() -> str:
    """
    :return: its name, as far as the system tells
    """
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
