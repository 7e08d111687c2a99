"""Environments that can be told apart, a check of all steps in a replay buffer, and actors in this process."""

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from sb3_recurrent_offpolicy.distributed.actor import Actor
from sb3_recurrent_offpolicy.distributed.contract import Contract, contract_of
from sb3_recurrent_offpolicy.distributed.fleet import ActorLostError, attached
from sb3_recurrent_offpolicy.distributed.messages import Delivery, Order, Weights
from sb3_recurrent_offpolicy.storage import StepRing

LENGTHS = (7, 1, 12, 5)


class NumberedEnv(gym.Env):
    """
    Observes (number of this object, number of the episode, time in it); no two steps are alike. Every second episode is
    terminated, the others end by a time limit.

    :param n_steps: after which a step raises an error, None for never
    """

    def __init__(self, n_steps: int | None = None, discrete: bool = True):
        self.observation_space = spaces.Box(0, 2**24, (3,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        # Exact in single precision
        self.number = secrets.randbelow(2**24)
        self.episode = -1
        self.n_left = n_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.n_left is not None:
            self.n_left -= 1
            if self.n_left < 0:
                raise ZeroDivisionError("this environment is worn out")
        reward = reward_of(self._observation(), np.asarray(action).sum())
        self.time += 1
        over, terminates = self.time == length_of(self.episode), self.episode % 2 == 0
        return self._observation(), reward, over and terminates, over and not terminates, {"time": self.time}

    def _observation(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.time], dtype=np.float32)


def length_of(episode: float) -> int:
    return LENGTHS[int(episode) % len(LENGTHS)]


def reward_of(observation: np.ndarray, action: float) -> float:
    number, episode, time = observation.tolist()
    return number % 7 + episode % 11 + time + 0.5 * float(action)


def check_ring(ring: StepRing) -> None:
    """Every step in a ring is as ``NumberedEnv`` makes it, none is missing and none is there twice."""
    times = np.arange(max(ring.n_added - ring.n_rows, 0), ring.n_added)
    rows = times % ring.n_rows
    for env in range(ring.n_envs):
        observations, starts = ring.observations[rows, env], ring.episode_steps[rows, env] == 0
        for i, (observation, start) in enumerate(zip(observations, starts, strict=True)):
            number, episode, time = observation.tolist()
            expected = reward_of(observation, ring.actions[rows[i], env].sum())
            assert ring.rewards[rows[i], env] == pytest.approx(expected, abs=1e-4)
            ends = time + 1 == length_of(episode)
            assert ring.terminated[rows[i], env] == (ends and episode % 2 == 0)
            assert start == (time == 0), "memory is forgotten where an episode begins, and only there"
            if i + 1 == len(rows):
                successor = ring.next_observation(env)
            elif starts[i + 1]:
                successor = ring.final_observations[int(times[i]) * ring.n_envs + env]
            else:
                successor = observations[i + 1]
            np.testing.assert_array_equal(successor, [number, episode, time + 1])
            if i + 1 < len(rows) and starts[i + 1]:
                following = observations[i + 1].tolist()
                if following[0] == number:
                    assert ends and following == [number, episode + 1, 0]
                else:
                    assert following[1:] == [0, 0], "another environment, after one that is gone"


def check_fleet(model: RecurrentOffPolicyAlgorithm) -> None:
    """Every step of the actors is in the replay buffer as it was made, and has been counted once."""
    check_counts(model)
    for ring in model.replay_buffer.rings[1:]:
        if ring.allocated:
            check_ring(ring)
    check_samples(model.replay_buffer)


def check_counts(model: RecurrentOffPolicyAlgorithm) -> None:
    """Every step in the replay buffer has been counted once."""
    assert model.num_timesteps == sum(ring.n_added * ring.n_envs for ring in model.replay_buffer.rings)
    assert model.uncounted_steps == 0


def check_samples(buffer: RecurrentSequenceReplayBuffer) -> None:
    """No sequence crosses an episode, an environment or a process that is gone."""
    samples = buffer.sample(64)
    for row in range(samples.mask.shape[1]):
        length = int(samples.mask[:, row].sum())
        seen = samples.observations[: length + 1, row].numpy()  # type: ignore[index]
        assert (seen[:, :2] == seen[0, :2]).all()
        np.testing.assert_array_equal(seen[:, 2], seen[0, 2] + np.arange(length + 1))


class Handle:
    """Of a delivery of an actor in this process."""

    def __init__(self, actor: int, order: Order, weights: Weights):
        self.actor, self.order, self.weights = actor, order, weights


class ActorsHere:
    """
    Actors in this process, as :class:`~sb3_recurrent_offpolicy.distributed.fleet.Transport`.

    :param contract: of all actors
    :param faults: what happens to the next deliveries: None, "dies", "is lost", "comes twice"
    :param hung: actors that deliver nothing
    :param generator: chooses whose delivery comes next; None: the oldest
    """

    def __init__(
        self,
        contract: Contract,
        faults: Iterable[str | None] = (),
        hung: Iterable[int] = (),
        generator: np.random.Generator | None = None,
    ):
        self.contract = cloudpickle.dumps(contract)
        self.faults, self.hung, self.generator = deque(faults), set(hung), generator
        self.n_made = 0
        self.actors = [self._begin(index) for index in range(contract.n_actors)]
        self.latest: dict[int, Delivery] = {}
        self.published: list[Weights] = []

    def _begin(self, index: int) -> Actor:
        self.n_made += 1
        return Actor(cloudpickle.loads(self.contract), index, 1000 + self.n_made)

    def publish(self, weights: Weights) -> Weights:
        for network in weights.values():
            for array in network.values():
                # As what comes from Ray's store
                array.flags.writeable = False
        self.published.append(weights)
        return weights

    def send(self, actor: int, order: Order, weights: Weights) -> Handle:
        return Handle(actor, order, weights)

    def wait(self, handles: list[Handle], seconds: float) -> list[Handle]:
        ready = [handle for handle in handles if handle.actor not in self.hung]
        if ready and self.generator is not None:
            return [ready[self.generator.integers(len(ready))]]
        return ready[:1]

    def receive(self, handle: Handle) -> Delivery:
        fault = self.faults.popleft() if self.faults else None
        if fault == "dies":
            raise ActorLostError("it was killed")
        if fault == "comes twice" and handle.actor in self.latest:
            return self.latest[handle.actor]
        actor = self.actors[handle.actor]
        if fault == "is lost":
            actor.collect(handle.order, handle.weights)
        delivery = cloudpickle.loads(cloudpickle.dumps(actor.collect(handle.order, handle.weights)))
        self.latest[handle.actor] = delivery
        return delivery

    def is_running(self, actor: int) -> bool:
        return True

    def replace(self, actor: int) -> None:
        self.latest.pop(actor, None)
        self.hung.discard(actor)
        self.actors[actor] = self._begin(actor)

    def close(self) -> None:
        self.actors.clear()


def fleet_here(
    model: RecurrentOffPolicyAlgorithm,
    make_env: Callable[[], gym.Env],
    n_actors: int = 2,
    n_envs: int = 2,
    stretch_length: int = 8,
    time_limit: float = 300.0,
    **settings: Any,
) -> Any:
    """:return: a context in which actors in this process collect for a model"""
    contract = contract_of(model, make_env, n_actors, n_envs, stretch_length)
    return attached(model, contract, ActorsHere(contract, **settings), time_limit)
