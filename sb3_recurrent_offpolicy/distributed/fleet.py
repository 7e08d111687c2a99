"""
The learner's side of its actors: who has been asked for what, what has come, and who must be replaced.

An actor has two orders at most, so it is never idle while its last delivery is on the way, and never further ahead than that.
The learner takes the oldest delivery, puts it into the replay buffer, and goes through its steps as if they were made now. So
the learner sets the pace, by ``train_freq`` and ``gradient_steps``, and waits where there is nothing to learn from yet.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.blocks import RingBlock
from sb3_recurrent_offpolicy.collecting import Deliveries, FleetPlace
from sb3_recurrent_offpolicy.distributed.actor import weights_of
from sb3_recurrent_offpolicy.distributed.contract import Contract
from sb3_recurrent_offpolicy.distributed.learner_records import Normalizer, Records
from sb3_recurrent_offpolicy.distributed.messages import Delivery, Order, Weights
from sb3_recurrent_offpolicy.preprocessing import map_observation

logger = logging.getLogger(__name__)

# One is being made while the other is on the way
ORDERS_PER_ACTOR = 2
# An actor that fails this often without delivering anything will go on failing
MOST_FAILURES = 3
# Between two looks at the time that actors take
SECONDS_PER_WAIT = 1.0


class ActorLostError(RuntimeError):
    """The process of an actor has died, or its machine."""


class Transport(Protocol):
    """What carries orders to actors in other processes, and their deliveries back."""

    def publish(self, weights: Weights) -> Any:
        """
        :param weights: for all actors
        :return: a handle for :meth:`send`
        """

    def send(self, actor: int, order: Order, weights: Any) -> Any:
        """
        :param actor: index
        :param order: to be done when those before it are done
        :param weights: handle from :meth:`publish`
        :return: a handle for the delivery
        """

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        """
        :param handles: of deliveries, the oldest first
        :param seconds: to wait at most
        :return: those that have come or have failed, in this order; empty if there are none
        """

    def receive(self, handle: Any) -> Delivery:
        """
        :param handle: of a delivery that has come, or has failed
        :return: the delivery
        :raises ActorLostError: if the actor has died
        :raises Exception: what the environment or the actor has raised
        """

    def is_running(self, actor: int) -> bool:
        """
        :param actor: index
        :return: whether it has a process yet
        """

    def replace(self, actor: int) -> None:
        """
        :param actor: index; its process is ended, and another one begins
        """


class Sent(NamedTuple):
    """An order on its way."""

    handle: Any
    at: float


class Member:
    """
    What the learner knows of an actor.

    :param index: of the actor
    :param ring: of the replay buffer, with its steps
    """

    def __init__(self, index: int, ring: int):
        self.index, self.ring = index, ring
        self.sent: deque[Sent] = deque()
        self.incarnation: str | None = None
        self.n_delivered = 0
        # Since its last delivery
        self.n_failures = 0
        # Since when it has been making the oldest stretch that it owes
        self.at_work_since = time.monotonic()


class Fleet(Deliveries):
    """
    The deliveries of all actors.

    :param model: the learner
    :param transport: to the actors
    :param rings: of the replay buffer, one for each actor
    :param n_envs: environments of each actor
    :param stretch_length: steps of each environment in a delivery
    :param time_limit: seconds after which an actor that has not delivered is replaced
    """

    def __init__(
        self,
        model: RecurrentOffPolicyAlgorithm,
        transport: Transport,
        rings: list[int],
        n_envs: int,
        stretch_length: int,
        time_limit: float,
    ):
        super().__init__(n_envs)
        self.model, self.transport = model, transport
        self.stretch_length, self.time_limit = stretch_length, time_limit
        self.members = [Member(index, ring) for index, ring in enumerate(rings)]
        self.records = Records(model, len(rings))
        vec_normalize = model.get_vec_normalize_env()
        self._normalizers = [None if vec_normalize is None else Normalizer(vec_normalize, n_envs) for _ in rings]
        self._published: tuple[int, Any] | None = None
        self._rows: _Rows | None = None

    # ------------------------------------------------- what SB3's loop asks for

    def next_actions(self) -> tuple[np.ndarray, np.ndarray]:
        if self._rows is None or self._rows.n_left == 0:
            self._rows = self._take()
        self._rows.t += 1
        # They are in the replay buffer, and count when SB3's loop has gone through them
        self.model.uncounted_steps = self._rows.n_left * self.num_envs
        return self._rows.actions[self._rows.t], self._rows.steps.actions[self._rows.t]

    def step_wait(self) -> VecEnvStepReturn:
        assert self._rows is not None
        return self._rows.step()

    def finish(self) -> None:
        """Count what has been delivered and SB3's loop has not gone through."""
        model = self.model
        while self._rows is not None and self._rows.n_left > 0:
            self.next_actions()
            _, _, dones, infos = self.step_wait()
            model.num_timesteps += self.num_envs
            model._update_info_buffer(infos, dones)
            model._episode_num += int(dones.sum())

    # ------------------------------------------------------------------ orders

    def _send_orders(self) -> None:
        """Give the actors as many orders as they may have: each one, and then each another one."""
        for n_orders in range(ORDERS_PER_ACTOR):
            for member in self.members:
                if len(member.sent) <= n_orders:
                    self._send(member)

    def _send(self, member: Member) -> None:
        model, version = self.model, self.model._n_updates
        if self._published is None or self._published[0] != version:
            self._published = (version, self.transport.publish(weights_of(model.policy)))
        n_asked = sum(len(each.sent) for each in self.members) * self.stretch_length * self.num_envs
        order = Order(
            version=version,
            num_timesteps=model.num_timesteps + model.uncounted_steps + n_asked,
            total_timesteps=model._total_timesteps,
            reward_factor=model.reward_factor,
            obs_rms=getattr(model.get_vec_normalize_env(), "obs_rms", None),
        )
        now = time.monotonic()
        if not member.sent:
            member.at_work_since = now
        member.sent.append(Sent(self.transport.send(member.index, order, self._published[1]), now))

    def _take(self) -> "_Rows":
        """The oldest delivery, as soon as there is one, in the replay buffer."""
        began = time.monotonic()
        while True:
            self._send_orders()
            self._replace_hung()
            owing = sorted(self.members, key=lambda member: member.sent[0].at)
            ready = self.transport.wait([member.sent[0].handle for member in owing], SECONDS_PER_WAIT)
            if not ready:
                continue
            member = next(each for each in owing if each.sent[0].handle is ready[0])
            order, delivery = member.sent[0], self._receive(member)
            if delivery is not None:
                now, n_in_flight = time.monotonic(), sum(len(each.sent) for each in self.members)
                self.records.note(member.index, delivery, now - order.at, now - began, n_in_flight)
                return self._store(member, delivery)

    def _receive(self, member: Member) -> Delivery | None:
        """What an actor has delivered; None if that is nothing to learn from, and has been dealt with."""
        handle = member.sent.popleft().handle
        member.at_work_since = time.monotonic()
        try:
            delivery = self.transport.receive(handle)
        except Exception as error:
            self._replace(member, error)
            return None
        if delivery.incarnation != member.incarnation:
            # It begins with new episodes
            member.incarnation, member.n_delivered = delivery.incarnation, 0
        if delivery.number < member.n_delivered:
            logger.warning("Actor %d has delivered stretch %d twice", member.index, delivery.number)
            return None
        if delivery.number > member.n_delivered:
            self._replace(member, ActorLostError(f"its stretch {member.n_delivered} is missing"))
            return None
        member.n_delivered += 1
        member.n_failures = 0
        return delivery

    def _store(self, member: Member, delivery: Delivery) -> "_Rows":
        model = self.model
        normalizer = self._normalizers[member.index]
        if normalizer is not None:
            normalizer.update(delivery)
        model.add_steps(delivery.steps, member.ring)
        if delivery.errors is not None:
            model.replay_buffer.set_newest_errors(delivery.errors, member.ring, n_newer=1)
        return _Rows(delivery, model)

    # ------------------------------------------------------------------ faults

    def _replace_hung(self) -> None:
        for member in self.members:
            seconds = time.monotonic() - member.at_work_since
            # What has come while the learner did something else, evaluate for example, is not late
            if seconds <= self.time_limit or self.transport.wait([member.sent[0].handle], 0.0):
                continue
            if self.transport.is_running(member.index):
                self._replace(member, ActorLostError(f"it has delivered nothing for {seconds:.0f} s (time_limit)"))
                self._send(member)
            else:
                # Where a machine is missing, its actors wait for another one
                member.at_work_since = time.monotonic()

    def _replace(self, member: Member, error: Exception) -> None:
        """
        Begin again with another process. What has reached the replay buffer stays.

        :raises Exception: the error itself, if the actor has failed too often
        """
        member.sent.clear()
        # None of its own deliveries are to come any more
        member.incarnation = None
        self.transport.replace(member.index)
        self.records.n_restarts += 1
        member.n_failures += 1
        if member.n_failures >= MOST_FAILURES:
            member.n_failures = 0
            raise error
        logger.warning("Actor %d is replaced: %s: %s", member.index, type(error).__name__, error)


class _Rows:
    """
    A delivery, one step after the other.

    :param delivery: whose steps are in the replay buffer
    :param model: the learner
    """

    def __init__(self, delivery: Delivery, model: RecurrentOffPolicyAlgorithm):
        self.steps, self.dones = delivery.steps, delivery.dones
        self.t = -1
        actions = delivery.steps.actions
        self.actions = model.policy.unscale_action(actions.reshape(*actions.shape[:2], *model.action_space.shape))  # type: ignore[misc]
        self._observations = map_observation(
            lambda array, last: np.concatenate([array[1:].reshape(-1, *last.shape), last[None]]),
            delivery.steps.observations,
            delivery.following,
        )
        self._rewards = delivery.steps.rewards
        vec_normalize = model.get_vec_normalize_env()
        if vec_normalize is not None:
            self._observations = vec_normalize.normalize_obs(self._observations)
            self._rewards = vec_normalize.normalize_reward(self._rewards)
        self._infos = {(t, env): info for t, env, info in delivery.infos}

    @property
    def n_left(self) -> int:
        """Steps that SB3's loop has not gone through."""
        return len(self.dones) - 1 - self.t

    def step(self) -> VecEnvStepReturn:
        """
        :return: what came of the actions
        """
        t, dones = self.t, self.dones[self.t]
        infos = [self._infos.get((t, env)) or {"TimeLimit.truncated": False} for env in range(len(dones))]
        return map_observation(lambda array: array[t], self._observations), self._rewards[t], dones, infos


def _rings_of_actors(model: RecurrentOffPolicyAlgorithm, n_actors: int, n_envs: int) -> list[int]:
    """
    Those of a run before, if there were as many actors; otherwise new ones, and the others stay in the replay buffer.

    :param model: the learner
    :param n_actors: number of actors
    :param n_envs: environments of each
    :return: indices of rings of the replay buffer, one for each actor
    """
    buffer = model.replay_buffer
    n_rows = model.buffer_size // (n_actors * n_envs)
    for first, source in buffer.sources.items():
        if isinstance(source, RingBlock) and (n_actors, n_envs, n_rows) == (
            len(source.members),
            source.envs_per_clock,
            source.n_rows,
        ):
            return list(range(first, first + n_actors))
    return buffer.add_rings(n_actors, n_envs, n_rows)


@contextmanager
def attached(
    model: RecurrentOffPolicyAlgorithm, contract: Contract, transport: Transport, time_limit: float
) -> Iterator[Fleet]:
    """
    A context in which a model is given its steps by actors.

    :param model: the learner
    :param contract: that the actors have
    :param transport: to them
    :param time_limit: seconds after which an actor that has not delivered is replaced
    """
    model.count_delivered_steps()
    rings = _rings_of_actors(model, contract.n_actors, contract.n_envs)
    fleet = Fleet(model, transport, rings, contract.n_envs, contract.stretch_length, time_limit)
    model.deliveries, model.fleet_place = fleet, FleetPlace(0, contract.n_actors * contract.n_envs)
    try:
        yield fleet
    finally:
        fleet.finish()
        model.deliveries = model.fleet_place = None
