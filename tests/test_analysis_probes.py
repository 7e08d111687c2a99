"""Probes find what a memory holds, and nothing else."""

from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO

from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.analysis import probe
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import envs_of, reader, record
from sb3_recurrent_offpolicy.analysis.probing import (
    MEMORY,
    OBSERVATION,
    SHUFFLED,
    STACK,
    UNTRAINED,
    Decoded,
    _untrained,
    memories_of,
)
from tests.memories import Counter, EchoEnv, ShiftRegister, model_with

DELAY, LENGTH = 3, 12


def make_env() -> EchoEnv:
    return EchoEnv(DELAY, LENGTH)


@pytest.fixture(scope="module")
def register() -> Any:
    """A shift register of 5 steps: what is asked 3 steps later, and a phase, which it does not count."""
    quantities: dict[str, Any] = {
        "asked": "asked",
        "phase": lambda envs, infos: np.array([float(len(bits) % 4) for bits in envs.get_attr("bits")]),
    }
    return probe(model_with(ShiftRegister, 5, make_env()), make_env, quantities, n_episodes=60)


def test_what_is_remembered_is_decoded(register: Any) -> None:
    found = register.best("asked", MEMORY)
    assert found.is_class and found.score() == 1.0
    np.testing.assert_array_equal(found.by_step(), 1.0)
    # Nobody had to learn this register
    assert register.best("asked", UNTRAINED).score() == 1.0


def test_controls_tell_what_memory_adds(register: Any) -> None:
    for source in (OBSERVATION, SHUFFLED):
        assert register.best("asked", source).score(from_step=DELAY) < 0.7
    # The stack of 4 reaches back to it
    assert register.best("asked", STACK).score() == 1.0
    assert register.best("phase", OBSERVATION).score() < 0.1


def test_table_names_all_sources(register: Any) -> None:
    text = str(register)
    assert all(source in text for source in (MEMORY, OBSERVATION, SHUFFLED, STACK, UNTRAINED, "asked", "phase"))


def test_a_counter_knows_the_time() -> None:
    quantities: Any = {"time": lambda envs, infos: np.array([float(len(bits)) for bits in envs.get_attr("bits")])}
    found = probe(model_with(Counter, 2 * LENGTH, make_env()), make_env, quantities, n_episodes=30)
    assert found.best("time", MEMORY).score() > 0.99
    assert found.best("time", OBSERVATION).score() < 0.1


def test_nothing_leaks_between_episodes() -> None:
    """A number that is drawn at random for each episode cannot be read off episodes that were not fitted."""

    def number(envs: Any, infos: Any) -> np.ndarray:
        return np.array([np.random.default_rng(i).normal() for i in range(envs.num_envs)])

    # This register keeps all bits, which tell episodes apart: a split by step would let a network learn them by heart
    found = probe(model_with(ShiftRegister, 12, make_env()), make_env, {"number": number}, n_episodes=40)
    assert found.best("number", MEMORY).score() < 0.2


@pytest.mark.parametrize("algorithm", [R2D2, RecurrentPPO])
def test_memories_along_an_episode_are_those_that_were_recorded(algorithm: Any) -> None:
    kwargs: dict[str, Any] = dict(n_steps=16) if algorithm is RecurrentPPO else dict(buffer_size=1000)
    opened = OpenedPolicy(algorithm("MlpLstmPolicy", make_env(), seed=0, device="cpu", **kwargs))
    with envs_of(opened, make_env, 2, seed=0) as envs:
        episodes = record(opened, envs, 5)
    for memories, episode in zip(memories_of(opened, episodes), episodes, strict=True):
        np.testing.assert_allclose(memories, episode.memories, atol=1e-6)


def test_untrained_policy_has_the_sizes_and_statistics_of_the_trained_one_and_other_weights() -> None:
    model = R2D2("MlpLstmPolicy", make_env(), seed=0, device="cpu", buffer_size=1000, learning_starts=50)
    model.learn(100)
    fresh = _untrained(OpenedPolicy(model), seed=1)
    assert fresh is not None
    trained, untrained = (policy.predicting_network.encoder for policy in (model.policy, fresh.policy))
    assert untrained.core.state_shapes == trained.core.state_shapes
    for name, weights in trained.core.state_dict().items():
        assert not th.equal(weights, untrained.core.state_dict()[name]) or weights.abs().max() in (0, 1)
    for name, statistics in trained.features_extractor.state_dict().items():
        th.testing.assert_close(statistics, untrained.features_extractor.state_dict()[name])


def test_scores_of_numbers_and_classes() -> None:
    targets = np.array([1.0, 2.0, 3.0, 4.0])
    steps = np.array([0, 0, 1, 1])
    assert Decoded(targets, targets, steps, False).score() == 1.0
    assert Decoded(targets, np.full(4, 2.5), steps, False).score() == 0.0
    assert Decoded(targets, np.array([2.0, 1.0, 3.0, 4.0]), steps, False).score(from_step=1) == 1.0
    assert Decoded(targets, np.array([1.0, 1.0, 3.0, 3.0]), steps, True).score() == 0.5
    assert np.isnan(Decoded(np.ones(4), np.ones(4), steps, False).score())
    by_step = Decoded(targets, targets, np.array([0, 0, 0, 1]), True).by_step(least=2)
    assert by_step[0] == 1.0 and np.isnan(by_step[1])


@pytest.mark.parametrize("quantity", ["state[", "a b", "", "info..x"])
def test_quantities_that_cannot_be_read(quantity: str) -> None:
    with pytest.raises(ValueError, match="must be like"):
        reader(quantity)


def test_mistakes() -> None:
    model = model_with(ShiftRegister, 3, make_env())
    with pytest.raises(ValueError, match="quantities is empty"):
        probe(model, make_env, {})
    with pytest.raises(ValueError, match="test_share=0"):
        probe(model, make_env, {"asked": "asked"}, test_share=0.0)
    with pytest.raises(ValueError, match=r"quantities\['both'\] has the shape \(2,\)"):
        probe(model, make_env, {"both": lambda envs, infos: np.zeros((envs.num_envs, 2))}, n_episodes=4)
    with pytest.raises(ValueError, match="n_episodes=2"):
        probe(model, make_env, {"asked": "asked"}, n_episodes=2)
