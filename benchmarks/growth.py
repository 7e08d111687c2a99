"""How the cost of an update, of ``add`` and of ``sample`` grows; figures for ``speed.py``."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from tqdm import tqdm

from benchmarks.timing import side_by_side, summary
from sb3_recurrent_offpolicy import R2D2, RecurrentSAC
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.type_aliases import RNNStates

HEADS = [128, 128]
BASE: dict[str, int] = dict(length=32, batch=32, hidden=128, layers=1)


class Sweep(NamedTuple):
    """
    One setting varied, all else as in ``BASE``.

    :param values: of the setting
    :param slope: in a log-log figure, if the cost were nothing but the work that the setting asks for
    """

    values: tuple[int, ...]
    slope: float


UPDATE_SWEEPS = {
    "length": Sweep((8, 16, 32, 64, 128, 256), 1),
    "batch": Sweep((8, 16, 32, 64, 128, 256), 1),
    "hidden": Sweep((32, 64, 128, 256, 512), 2),
    "layers": Sweep((1, 2, 3, 4), 1),
}
BUFFER_SIZES, N_ENVS = (10_000, 30_000, 100_000, 300_000, 1_000_000), (1, 2, 4, 8, 16, 32, 64)


def model_to_update(
    setting: dict[str, int],
    device: str,
    algorithm: Callable[..., Any] = RecurrentSAC,
    core: str = "lstm",
    heads: Sequence[int] = HEADS,
) -> Any:
    """
    :param setting: length and number of sequences, units and layers of each memory, named as in ``BASE``
    :param device: of the networks
    :param algorithm: class of the model
    :param core: kind of the memories
    :param heads: layers behind them
    :return: a model with a filled buffer; ``train(1, batch)`` updates it
    """
    q_learning = algorithm is R2D2
    model = algorithm(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1" if q_learning else "Pendulum-v1", n_envs=8, seed=0),
        batch_size=setting["batch"],
        sequence_length=setting["length"],
        buffer_size=20_000,
        learning_starts=10**9,
        device=device,
        seed=0,
        burn_in=0,
        policy_kwargs=dict(
            core=core, lstm_hidden_size=setting["hidden"], n_lstm_layers=setting["layers"], net_arch=list(heads)
        ),
    )
    model.set_logger(configure(None, []))
    return model.learn(8_000)


def grow_updates(rounds: int, device: str) -> dict[str, Any]:
    """Milliseconds of an update over each setting, in one alternating run per setting."""
    found: dict[str, Any] = {}
    for name, sweep in UPDATE_SWEEPS.items():
        settings = [BASE | {name: value} for value in sweep.values]
        models = [model_to_update(setting, device) for setting in settings]
        contenders = {
            f"{name} {value}": partial(model.train, 1, setting["batch"])
            for value, model, setting in zip(sweep.values, models, settings, strict=True)
        }
        seconds = side_by_side(contenders, rounds, device)
        found[name] = [[value, summary(s, 1e3)] for value, s in zip(sweep.values, seconds.values(), strict=True)]
    return found


def grow_buffer(rounds: int) -> dict[str, Any]:
    """Microseconds of one ``add`` and one ``sample`` of 32 x 32 steps, and bytes, over size and number of environments."""
    found: dict[str, Any] = {}
    for name, settings in (
        ("buffer size", [(size, 1) for size in BUFFER_SIZES]),
        ("n_envs", [(100_000, n_envs) for n_envs in N_ENVS]),
    ):
        buffers = [_full_buffer(size, n_envs) for size, n_envs in settings]
        values = [setting[0 if name == "buffer size" else 1] for setting in settings]
        adds: list[Callable[[], Any]] = [partial(_add, buffer, 100) for buffer in buffers]
        samples: list[Callable[[], Any]] = [partial(buffer.sample, 32) for buffer in buffers]
        for what, calls, scale in (("add", adds, 1e6 / 100), ("sample", samples, 1e6)):
            seconds = side_by_side({f"{what}, {name} {v}": call for v, call in zip(values, calls, strict=True)}, rounds)
            found[f"{what} over {name}"] = [[v, summary(s, scale)] for v, s in zip(values, seconds.values(), strict=True)]
        found[f"bytes over {name}"] = [[v, {"median": held_bytes(b)}] for v, b in zip(values, buffers, strict=True)]
    return found


def _full_buffer(size: int, n_envs: int) -> RecurrentSequenceReplayBuffer:
    space = spaces.Box(-1, 1, (8,), np.float32)
    buffer = RecurrentSequenceReplayBuffer(size, space, spaces.Box(-1, 1, (2,), np.float32), "cpu", n_envs)
    for _ in tqdm(range(buffer.buffer_size), desc=f"filling {size} steps of {n_envs}", leave=False):
        _add(buffer, 1)
    return buffer


def _add(buffer: RecurrentSequenceReplayBuffer, n: int) -> None:
    n_envs = buffer.n_envs
    observation, zeros = np.zeros((n_envs, 8), dtype=np.float32), np.zeros(n_envs)
    states = RNNStates(*(((th.zeros(1, n_envs, 128),) * 2,) * 2))
    for _ in range(n):
        starts = np.full(n_envs, buffer.rings[0].n_added % 200 == 0)
        buffer.add(observation, observation, np.zeros((n_envs, 2)), zeros, zeros, [{}] * n_envs, starts, states)


def held_bytes(buffer: RecurrentSequenceReplayBuffer) -> int:
    """
    :param buffer: that has been filled
    :return: bytes of its arrays and of the last observations of episodes
    """
    (ring,) = buffer.rings
    arrays = sum(value.nbytes for value in vars(ring).values() if isinstance(value, np.ndarray))
    return int(arrays + sum(value.nbytes for value in ring.final_observations.values()))


def draw(updates: dict[str, Any], buffers: dict[str, Any], path: Path) -> None:
    """
    :param updates: from :func:`grow_updates`
    :param buffers: from :func:`grow_buffer`
    :param path: of the figure
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator

    slopes = {name: UPDATE_SWEEPS[name].slope for name in updates}
    slopes |= {name: 1.0 if name.startswith("bytes over b") or name == "add over n_envs" else 0.0 for name in buffers}
    units = {"add": "add (µs)", "sample": "sample 32 x 32 (µs)", "bytes": "bytes held"}
    panels = updates | buffers
    figure, grid = plt.subplots(2, 5, figsize=(15, 6), layout="constrained")
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=True):
        x = np.array([value for value, _ in points], dtype=float)
        y = np.array([measured["median"] for _, measured in points])
        axes.loglog(x, y[-1] * (x / x[-1]) ** slopes[name], "--", color="gray", linewidth=1, label=f"slope {slopes[name]:g}")
        axes.loglog(x, y, "o-", linewidth=2, markersize=4)
        if "low" in points[0][1]:
            low, high = ([measured[bound] for _, measured in points] for bound in ("low", "high"))
            axes.fill_between(x, low, high, alpha=0.2, linewidth=0)
        what, _, over = name.partition(" over ")
        axes.set(xlabel=over or name, ylabel=units[what] if over else "RecurrentSAC update (ms)")
        axes.set_ylim(min(y) / 3, max(y) * 3)
        axes.set_xticks(x, [f"{value:g}" if value < 10_000 else f"{value:.0e}".replace("e+0", "e") for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
