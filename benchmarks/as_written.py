"""One line of code as in the README, ``learn(1e5)`` with nothing but the defaults, and its time beside SB3's."""

import json
import time
from typing import Any

import numpy as np
from stable_baselines3 import SAC, TD3

from benchmarks.learning import EVALUATION_SEED, RESULTS, score
from benchmarks.report import markdown, mean_and_worst
from benchmarks.tasks import TASKS
from benchmarks.timing import processor
from sb3_recurrent_offpolicy.zoo import ALGORITHMS

FOLDER = RESULTS / "defaults" / "as_written"
# One line of code each, and what it is compared with in time
AS_WRITTEN: dict[str, tuple[str, Any]] = {
    "recurrent_td3": ("PendulumNoVel-v1", TD3),
    "recurrent_sac": ("PendulumNoVel-v1", SAC),
    "r2d2": ("CartPoleNoVel-v1", TD3),
}
AS_WRITTEN_STEPS, OTHERS_STEPS = 100_000, 5_000


def learn_as_written(algo: str, seed: int) -> None:
    """
    ``learn(1e5)`` with nothing but the defaults, and some steps of SB3's algorithm before and after it for its time per step.

    :param algo: the algorithm
    :param seed: of training
    """
    algorithm: Any = ALGORITHMS[algo]
    env_id, other_class = AS_WRITTEN[algo]
    path = FOLDER / f"{algo}_{seed}.json"
    if path.exists():
        return
    other = other_class("MlpPolicy", "PendulumNoVel-v1", seed=seed, device="cpu")
    # Before its updates begin, a step costs next to nothing
    other.learn(other.learning_starts + 1)
    spent = []

    def time_other() -> None:
        begin = time.perf_counter()
        other.learn(OTHERS_STEPS // 2, reset_num_timesteps=False)
        spent.append(time.perf_counter() - begin)

    time_other()
    begin = time.perf_counter()
    model = algorithm("MlpLstmPolicy", env_id, seed=seed, device="cpu").learn(AS_WRITTEN_STEPS)
    seconds = time.perf_counter() - begin
    time_other()
    result = {
        "command": f"python -m benchmarks.defaults --as-written --seeds {seed}",
        "algo": algo,
        "env": env_id,
        "seed": seed,
        "mean": round(float(score(model, env_id, TASKS[env_id].n_starts, EVALUATION_SEED).mean()), 2),
        "seconds": round(seconds, 1),
        "other": other_class.__name__,
        "seconds_of_other": round(sum(spent) / OTHERS_STEPS * AS_WRITTEN_STEPS, 1),
        "processor": processor(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(result, flush=True)


def as_written_table() -> list[str]:
    """
    :return: of the runs so far
    """
    rows = []
    for algo, (env_id, other) in AS_WRITTEN.items():
        paths = sorted(FOLDER.glob(f"{algo}_[0-9]*.json"))
        results = [json.loads(path.read_text()) for path in paths]
        if results:
            ratios = [result["seconds"] / result["seconds_of_other"] for result in results]
            name = ALGORITHMS[algo].__name__
            cells = [str(len(results)), mean_and_worst(results)]
            seconds = f"{np.mean([result['seconds'] for result in results]):.0f} s"
            rows.append(
                [
                    f'`{name}("MlpLstmPolicy", "{env_id}").learn(1e5)`',
                    *cells,
                    seconds,
                    f"{np.mean(ratios):.2f} of {other.__name__}",
                    ", ".join(sorted({result["processor"] for result in results})),
                ]
            )
    return markdown(["code", "seeds", "mean (worst seed)", "wall-clock", "against SB3", "core"], rows) if rows else []
