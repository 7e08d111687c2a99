"""Updates that wait for the next step of the environments: the same data and updates as without, wherever environments run."""

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformReward
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn, VecEnvWrapper

from sb3_recurrent_offpolicy import R2D2, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from tests.envs import RandomEnv
from tests.recorder import ACTION_SPACE, OBSERVATION_SPACE
from tests.sb3_behaviours.cases import learned
from tests.setup import model_on, noise, random_envs

FREQUENCIES: list[dict[str, Any]] = [
    dict(train_freq=1),
    dict(train_freq=4, gradient_steps=2),
    dict(train_freq=4, gradient_steps=-1),
    dict(train_freq=1, gradient_steps=-3),
    dict(train_freq=4, gradient_steps=-3),
    dict(train_freq=(1, "episode"), gradient_steps=-1),
]
each_frequency = pytest.mark.parametrize(
    "frequency", FREQUENCIES, ids=["every_step", "2_of_4", "4_of_4", "1_of_3", "4_of_12", "episode"]
)


def overlapping(env: VecEnv | None = None, algorithm: type[RecurrentOffPolicyAlgorithm] = RecurrentTD3, **kwargs: Any) -> Any:
    return model_on(env or random_envs(1), algorithm, **dict(overlap_updates=True, train_freq=1, gradient_steps=1) | kwargs)


def somewhere(vec_env_cls: type[VecEnv], n_envs: int, action_space: spaces.Space = ACTION_SPACE) -> VecEnv:
    # VecNormalize would see rewards of DummyVecEnv in single, those of SubprocVecEnv in double precision
    make = lambda: TransformReward(RandomEnv(OBSERVATION_SPACE, action_space), lambda reward: float(np.float32(reward)))  # noqa: E731
    return make_vec_env(make, n_envs, seed=0, vec_env_cls=vec_env_cls)  # type: ignore[arg-type]


class Halves(VecEnvWrapper):
    """
    Tells when each half of a step is made.

    :param venv: the environments
    :param failures: by the name of an event, exceptions to raise in its place, once each
    """

    def __init__(self, venv: VecEnv, **failures: BaseException):
        super().__init__(venv)
        self.events: list[str] = []
        self.failures = failures

    def tell(self, event: str) -> None:
        self.events.append(event)
        if event in self.failures:
            raise self.failures.pop(event)

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.tell("ask")
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        self.tell("answer")
        return self.venv.step_wait()


class Watched:
    """A model that tells what happens in turn, and of what it learns when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **kwargs: Any):
        self.env = Halves(random_envs(1))
        self.model = overlapping(self.env, **kwargs)
        self.updates: list[Any] = []
        act, update = self.model.behavior.act, self.model._update

        def watched_act(*args: Any) -> Any:
            assert not self.model.policy.training
            self.env.tell("act")
            return act(*args)

        def watched_update(gradient_steps: int, batch_size: int) -> None:
            n_added, progress = self.model.replay_buffer.rings[0].n_added, self.model._current_progress_remaining
            self.updates.append((n_added, gradient_steps, batch_size, progress))
            self.env.tell("update")
            update(gradient_steps, batch_size)

        monkeypatch.setattr(self.model.behavior, "act", watched_act)
        monkeypatch.setattr(self.model, "_update", watched_update)


class At(BaseCallback):
    """
    Calls a function once.

    :param n_steps: made so far
    :param function: of the model; training stops where it returns False
    :param rollout_start: call it when the next rollout starts, where updates are due, and not within the step
    """

    def __init__(self, n_steps: int, function: Callable[[Any], Any], rollout_start: bool = False):
        super().__init__()
        self.n_steps, self.function, self.rollout_start = n_steps, function, rollout_start

    def _on_rollout_start(self) -> None:
        if self.rollout_start and self.num_timesteps == self.n_steps:
            self.function(self.model)

    def _on_step(self) -> bool:
        return self.rollout_start or self.num_timesteps != self.n_steps or self.function(self.model) is not False


@pytest.mark.parametrize(
    ("algorithm", "n_envs", "normalized"), [(RecurrentTD3, 1, True), (RecurrentSAC, 2, False), (R2D2, 2, True)]
)
def test_where_environments_run_makes_no_difference(
    algorithm: type[RecurrentOffPolicyAlgorithm], n_envs: int, normalized: bool
) -> None:
    action_space = spaces.Discrete(4) if algorithm is R2D2 else ACTION_SPACE
    kwargs: dict[str, Any] = dict(burn_in=2) if algorithm is R2D2 else dict(action_noise=noise())
    runs: list[Any] = []
    for vec_env_cls, overlap in ((SubprocVecEnv, True), (DummyVecEnv, True), (DummyVecEnv, False)):
        env = somewhere(vec_env_cls, n_envs, action_space)
        if normalized:
            env = VecNormalize(VecFrameStack(env, 2), gamma=0.9)
        runs.append(overlapping(env, algorithm, overlap_updates=overlap, **kwargs).learn(60))
        env.close()
    rings = [vars(run.replay_buffer.rings[0]) for run in runs]
    arrays = [name for name, value in rings[0].items() if isinstance(value, np.ndarray)]
    assert {"observations", "actions", "rewards"} <= set(arrays)
    for name in arrays:
        np.testing.assert_array_equal(rings[0][name], rings[1][name], err_msg=name)
    assert all(map(th.equal, learned(runs[0]), learned(runs[1])))
    assert runs[0]._n_updates == runs[1]._n_updates == runs[2]._n_updates > 0
    assert not np.array_equal(rings[1]["states"], rings[2]["states"]), "other weights acted"


@each_frequency
def test_updates_are_made_of_the_data_after_which_they_were_due(
    frequency: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when learning goes on later; the progress is what a learning rate depends on."""
    on, off = (Watched(monkeypatch, overlap_updates=overlap, **frequency) for overlap in (True, False))
    for watched in (on, off):
        watched.model.learn(40)
        assert watched.model._due_updates == 0
        watched.model.learn(20, reset_num_timesteps=False)
    assert on.updates == off.updates and len(on.updates) > 3
    assert on.model._n_updates == off.model._n_updates == sum(n for _, n, *_ in on.updates)
    assert on.model.logger.name_to_value["train/n_updates"] == on.model._n_updates


@each_frequency
def test_updates_are_made_between_the_halves_of_a_step(frequency: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on, off = (Watched(monkeypatch, overlap_updates=overlap, **frequency) for overlap in (True, False))
    for watched in (on, off):
        watched.model.learn(60)
    in_turn = "update act ask answer"
    events = " ".join(off.env.events)
    assert in_turn in events and "ask update" not in events
    expected = events.removesuffix(" update").replace(in_turn, "act ask update answer")
    assert " ".join(on.env.events) == expected + " update", "the last ones have no step to wait for"


def test_whoever_trains_by_hand_does_not_wait() -> None:
    model = overlapping().learn(40)
    n_updates = model._n_updates
    model.train(3)
    model.learn(1, reset_num_timesteps=False, callback=At(41, lambda model: model.train(2, 4)))
    assert model._n_updates == n_updates + 3 + 2 + 1


def test_noise_functions_of_a_rollout_outlast_its_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = overlapping(algorithm=RecurrentSAC, use_sde=True, train_freq=4)
    update = model._update

    def watched_update(*args: Any) -> None:
        before = model.actor.action_dist.exploration_matrices.clone()
        update(*args)
        assert th.equal(before, model.actor.action_dist.exploration_matrices)

    monkeypatch.setattr(model, "_update", watched_update)
    assert model.learn(60)._n_updates == 10


@pytest.mark.parametrize("rollout_start", [False, True])
def test_callbacks_change_nothing(rollout_start: bool) -> None:
    """Whether they evaluate, predict, copy or save, and whether updates are due at that time."""
    plain = overlapping(random_envs(2), RecurrentSAC, seed=4).learn(80)
    env = random_envs(2)

    def look(model: Any) -> None:
        assert model._due_updates == rollout_start
        state = th.get_rng_state()
        model.predict(np.zeros(2), deterministic=False)
        model.save(io.BytesIO())
        copied = copy.deepcopy(model).learn(10, reset_num_timesteps=False)
        assert copied._n_updates == model._n_updates + rollout_start + 5
        th.set_rng_state(state)

    evaluation = EvalCallback(random_envs(1), eval_freq=13, n_eval_episodes=2, verbose=0)
    watched = overlapping(env, RecurrentSAC, seed=4).learn(80, callback=[evaluation, At(50, look, rollout_start)])
    assert watched._n_updates == plain._n_updates
    assert all(map(th.equal, learned(watched), learned(plain)))


def test_a_callback_that_stops() -> None:
    """No update is lost, none is added, and learning goes on."""
    runs = []
    for overlap in (True, False):
        model = overlapping(overlap_updates=overlap).learn(60, callback=At(30, lambda model: False))
        assert (model.num_timesteps, model._n_updates, model._due_updates) == (30, 9, 0)
        runs.append(model.learn(30, reset_num_timesteps=False))
    assert runs[0]._n_updates == runs[1]._n_updates


def test_due_updates_are_saved_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With the buffer they go on where they were due; without it they have nothing to learn from."""

    def save(model: Any) -> None:
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")

    overlapping().learn(60, callback=At(30, save, rollout_start=True))
    for with_buffer in (True, False):
        model: Any = RecurrentTD3.load(tmp_path / "model", random_envs(1))
        assert (model._due_updates, model._n_updates, model.overlap_updates) == (1, 9, True)
        if with_buffer:
            model.load_replay_buffer(tmp_path / "buffer")
        seen: list[int] = []
        monkeypatch.setattr(model, "_update", lambda *_, m=model, s=seen: s.append(m.replay_buffer.rings[0].n_added))
        model.learn(3, reset_num_timesteps=False)
        assert seen == ([30, 31, 32, 33] if with_buffer else [1, 2, 3])


def test_an_update_that_raises_leaves_other_processes_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = somewhere(SubprocVecEnv, 2)
    model = overlapping(env)
    update = model._update

    def failing_update(*args: Any) -> None:
        if model._n_updates == 5:
            model._n_updates += 1
            raise ZeroDivisionError
        update(*args)

    monkeypatch.setattr(model, "_update", failing_update)
    with pytest.raises(ZeroDivisionError):
        model.learn(100)
    assert len(env.get_attr("n_episodes")) == 2 and env.reset().shape == (2, 2)
    n_steps = model.num_timesteps
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == n_steps + 20 and model._n_updates == 6 + 10
    assert model.predict(env.reset())[0].shape == (2, 3)
    env.close()


@pytest.mark.parametrize(
    ("failures", "raised"),
    [
        (dict(ask=OSError()), OSError),
        (dict(answer=OSError()), OSError),
        (dict(update=ZeroDivisionError()), ZeroDivisionError),
        # Ctrl-C ends other processes too
        (dict(update=KeyboardInterrupt(), answer=EOFError()), KeyboardInterrupt),
    ],
)
def test_after_a_failure_learning_goes_on(
    failures: dict[str, BaseException], raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates that were due when the environments failed are made; one that fails itself is not tried again."""
    watched = Watched(monkeypatch)
    model = watched.model
    with pytest.raises(raised):
        model.learn(60, callback=At(30, lambda _: watched.env.failures.update(failures)))
    assert model.num_timesteps == 30 and model._due_updates == (raised is OSError and watched.env.events[-1] == "ask")
    watched.env.failures.clear()
    model.learn(10, reset_num_timesteps=False)
    assert [n_added for n_added, *_ in watched.updates] == list(range(21, 41))
    assert all(th.isfinite(parameter).all() for parameter in learned(model))
