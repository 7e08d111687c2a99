"""Where an update and an acting step spend their time, by kind of work."""

import time
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from torch.profiler import ProfilerActivity, profile

from sb3_recurrent_offpolicy import RecurrentSAC

# Operators by their names' beginnings; what is left over is Python and the rest of torch's work per call
KINDS = {
    "recurrent calls": ("aten::mkldnn_rnn_layer", "aten::_cudnn_rnn", "aten::lstm", "aten::gru"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear"),
    "copies, concatenation, sums": (
        "aten::cat",
        "aten::copy_",
        "aten::clone",
        "aten::index",
        "aten::select_backward",
        "aten::sum",
    ),
    "optimizer and targets": ("aten::_fused_adam", "aten::_foreach"),
}


def _profile(call: Callable[[], Any], n: int = 20) -> dict[str, Any]:
    call()
    start = time.perf_counter()
    for _ in range(n):
        call()
    total = (time.perf_counter() - start) / n
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begun = time.perf_counter()
        for _ in range(n):
            call()
        watched = time.perf_counter() - begun
    shares = dict.fromkeys(KINDS, 0.0) | {"other operators": 0.0}
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), "other operators")
            shares[kind] += event.self_cpu_time_total / 1e6 / watched
    shares["Python and dispatch"] = 1.0 - sum(shares.values())
    return {"total ms": 1e3 * total, "shares": {kind: round(share, 3) for kind, share in shares.items()}}


def profile_update(model: Any, batch: int) -> dict[str, Any]:
    """
    :param model: with a filled buffer
    :param batch: sequences
    :return: milliseconds of an update and the share of each kind of work, as the profiler sees it
    """
    return _profile(lambda: model.train(1, batch))


def profile_acting(device: str, n_envs: int = 8) -> dict[str, Any]:
    """
    :param device: of the networks
    :param n_envs: environments
    :return: the same for one step of collecting, the environments' own time included
    """
    model = RecurrentSAC(
        "MlpLstmPolicy",
        make_vec_env("Pendulum-v1", n_envs=n_envs, seed=0),
        learning_starts=0,
        buffer_size=20_000,
        device=device,
        train_freq=50,
        gradient_steps=0,
    )
    model.set_logger(configure(None, []))
    _, callback = model._setup_learn(10**9)

    def collect() -> None:
        # mypy takes env for None and train_freq for its unparsed form; both are set by now
        model.collect_rollouts(model.env, callback, model.train_freq, model.replay_buffer)  # type: ignore[arg-type]

    found = _profile(collect)
    return found | {"total ms": found["total ms"] / 50}
