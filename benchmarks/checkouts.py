"""
Two checkouts of the package compared on one machine: do they learn the same, to the bit, and how fast are they?

    python -m benchmarks.checkouts --before PATH                # against this checkout: benchmarks/results/checkouts.*
    python -m benchmarks.checkouts --before PATH --after PATH --only speed --rounds 30

* results: small models are trained from each checkout and all their parameters compared, and what their replay buffers
  hold where both have arrays of that name. Exits with 1 if anything differs
* speed: two processes, one per checkout, are asked in turn, A B, B A, A B, and started again twice. The ratio is taken pair
  by pair, so that a machine that slows down slows both

Nothing is compared with stored numbers, which differ between processors.
"""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.one_checkout import N_STEPS, cases, timings
from benchmarks.timing import Row, machine, row, summary

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
EQUAL = "equal"
# Of two processes with the same code one is faster by up to 2 %, for as long as they live
N_STARTS = 3


class Checkout:
    """
    A process that has imported the package from one checkout.

    :param root: of the checkout
    """

    def __init__(self, root: Path):
        # The first entry of the path would be the folder of the script, whose modules have the names of others
        environment = os.environ | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("one_checkout.py")), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, request: str, argument: str) -> Any:
        """
        :param request: name of a function in ``one_checkout.py``
        :param argument: of this function
        :return: what it returns
        :raises RuntimeError: if it fails there
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((request, argument), self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *args: Any) -> None:
        # The end of its input is its end
        self._process.communicate()


def commit(root: Path) -> str:
    """
    :param root: of a checkout
    :return: its commit, and whether the package has changed since
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "sb3_recurrent_offpolicy")
    return git("rev-parse", "HEAD") + (" and uncommitted changes" if changed else "")


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    """NaN where one is not a number and the other is, or not the same one."""
    differing = before != after
    return float(np.abs(before[differing].astype(np.float64) - after[differing]).max(initial=0.0))


def compare(before: dict[str, dict[str, np.ndarray]], after: dict[str, dict[str, np.ndarray]]) -> str:
    """
    :param before: parameters and replayed arrays of a model
    :param after: those of the other
    :return: "equal" and what was compared, or the largest differences
    """
    lines = []
    if changed := sorted(set(before["parameters"]) ^ set(after["parameters"])):
        lines.append(f"only one has the parameters {', '.join(changed)}")
    for kind in ("parameters", "replay"):
        found: dict[str, float] = {}
        for name in before[kind].keys() & after[kind].keys():
            a, b = before[kind][name], after[kind][name]
            if a.shape != b.shape or a.dtype != b.dtype:
                lines.append(f"{name} is {a.dtype}{a.shape} before and {b.dtype}{b.shape} after")
            # Bytes: 0 and -0 differ, something that is not a number equals itself
            elif a.tobytes() != b.tobytes():
                found[name] = _difference(a, b)
        if found:
            worst = max(found, key=lambda name: np.nan_to_num(found[name], nan=np.inf))
            lines.append(f"{len(found)} of {len(before[kind])} {kind}, by up to {found[worst]:.3g} ({worst})")
    if lines:
        return f"DIFFERENT: {'; '.join(lines)}"
    replayed = sorted(before["replay"].keys() & after["replay"].keys())
    return f"{EQUAL} ({len(before['parameters'])} parameters; replayed {', '.join(replayed) or 'arrays were not found'})"


def compare_results(before: Path, after: Path) -> dict[str, str]:
    """
    :param before: root of a checkout
    :param after: of the other
    :return: for each case, what came out
    """
    outcomes = {}
    with Checkout(before) as old, Checkout(after) as new:
        for name in cases():
            try:
                outcomes[name] = compare(old.ask("train", name), new.ask("train", name))
            except RuntimeError as error:
                outcomes[name] = f"FAILED: {error}"
            print(f"{name}: {outcomes[name]}", flush=True)
    return outcomes


def compare_speed(before: Path, after: Path, rounds: int) -> list[Row]:
    """
    :param before: root of a checkout
    :param after: of the other
    :param rounds: answers of each
    :return: rows of a table, with the ratio after / before pair by pair
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in timings()}
    for turns in np.array_split(np.arange(rounds), min(N_STARTS, rounds)):
        with Checkout(before) as old, Checkout(after) as new:
            for name in pairs:
                # Makes the models, and warms up
                old.ask("seconds", name)
                new.ask("seconds", name)
            for turn in tqdm(turns.tolist(), desc="timing", leave=False):
                # All in every round: a machine that is busy for seconds disturbs a little of each, not one for good
                for name, found in pairs.items():
                    # A B, B A, A B ...: neither is always the one that finds the processor as the other has left it
                    answers = {checkout: checkout.ask("seconds", name) for checkout in (old, new)[:: -1 if turn % 2 else 1]}
                    found.append((answers[old], answers[new]))
    rows = []
    for name, found in pairs.items():
        scale = 1e6 if "µs" in name else 1e3
        theirs, ours = (summary(list(values), scale) for values in zip(*found, strict=True))
        rows.append(row(name, ours, "before", theirs) | {"ratio": summary([b / a for a, b in found])})
    return rows


def speed_table(rows: list[Row]) -> str:
    """
    :param rows: from :func:`compare_speed`
    :return: Markdown
    """

    def cell(value: dict[str, float], form: str) -> str:
        return f"{value['median']:{form}} ({value['low']:{form}} to {value['high']:{form}})"

    lines = ["| what | before | after | after / before |", "|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {cell(r['theirs'], '.4g')} | {cell(r['ours'], '.4g')} | {cell(r['ratio'], '.3f')} |" for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="root of a checkout")
    parser.add_argument("--after", type=Path, default=ROOT, help="root of the other; default: this one")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=["results", "speed"])
    arguments = parser.parse_args()
    roots = arguments.before.resolve(), arguments.after.resolve()
    stated = machine("cpu", 1) | {"before": commit(roots[0]), "after": commit(roots[1])}
    # Where a checkout lay says nothing to others
    stated["command"] = re.sub(r"(?<![\w.])/(\S*/)?", "", stated["command"])

    result: dict[str, Any] = {"machine": stated}
    lines = [f"{key}: {value}  " for key, value in stated.items()]
    if arguments.only != "speed":
        outcomes = result["results"] = compare_results(*roots)
        lines += ["", f"After {N_STEPS:,} steps:", ""] + [f"* {name}: {outcome}" for name, outcome in outcomes.items()]
    if arguments.only != "results":
        rows = result["speed"] = compare_speed(*roots, arguments.rounds)
        lines += ["", "Medians (10 % to 90 %); ratios pair by pair:", "", speed_table(rows)]
        print(speed_table(rows))
    (RESULTS / "checkouts.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "checkouts.md").write_text("\n".join(lines) + "\n")
    sys.exit(any(not outcome.startswith(EQUAL) for outcome in result.get("results", {}).values()))


if __name__ == "__main__":
    main()
