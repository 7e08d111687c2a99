"""Actors on Ray: how they are begun, spoken to and ended."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm
from sb3_recurrent_offpolicy.checks import check_installed, check_numbers
from sb3_recurrent_offpolicy.distributed.actor import Actor
from sb3_recurrent_offpolicy.distributed.contract import Contract, contract_of
from sb3_recurrent_offpolicy.distributed.fleet import ORDERS_PER_ACTOR, ActorLostError, attached
from sb3_recurrent_offpolicy.distributed.messages import Delivery, Order, Weights

# What Ray keeps besides deliveries
OBJECT_STORE_BYTES = 128 << 20


def _import_ray() -> Any:
    # Ray would report usage to its makers otherwise
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check_installed("ray", "ray")
    import ray

    return ray


class RayTransport:
    """
    Orders and deliveries through Ray.

    :param contract: of all actors
    :param cpus_per_actor: cores that Ray reserves for each
    :param seed: of all random streams
    :param actor_class: of the actors
    """

    def __init__(self, contract: Contract, cpus_per_actor: float, seed: int, actor_class: type[Actor] = Actor):
        self._ray: Any = _import_ray()
        # Never max_task_retries: Ray would splice the steps of another process into a stretch
        self._class = self._ray.remote(num_cpus=cpus_per_actor, max_restarts=0, max_task_retries=0)(actor_class)
        self._contract, self._seed = self._ray.put(contract), seed
        self._n_begun = [0] * contract.n_actors
        self.actors = [self._begin(index) for index in range(contract.n_actors)]
        self._begun = [actor.__ray_ready__.remote() for actor in self.actors]

    def _begin(self, index: int) -> Any:
        seed = np.random.SeedSequence([self._seed, index, self._n_begun[index]]).generate_state(1)
        self._n_begun[index] += 1
        return self._class.remote(self._contract, index, int(seed[0]))

    def publish(self, weights: Weights) -> Any:
        return self._ray.put(weights)

    def send(self, actor: int, order: Order, weights: Any) -> Any:
        return self.actors[actor].collect.remote(order, weights)

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        return self._ray.wait(handles, num_returns=1, timeout=seconds)[0]

    def receive(self, handle: Any) -> Delivery:
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayTaskError as error:
            # What the environment raised, with its own type
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise ActorLostError(str(error).strip().splitlines()[0]) from error

    def is_running(self, actor: int) -> bool:
        return bool(self._ray.wait([self._begun[actor]], timeout=0)[0])

    def replace(self, actor: int) -> None:
        self._ray.kill(self.actors[actor])
        self.actors[actor] = self._begin(actor)
        self._begun[actor] = self.actors[actor].__ray_ready__.remote()

    def close(self) -> None:
        """End all actors."""
        for actor in self.actors:
            self._ray.kill(actor)


class RayActors:
    """
    Actors in processes of their own, on this machine or on a cluster, for one learner::

        with RayActors(model, make_env, n_actors=4, envs_per_actor=8):
            model.learn(1_000_000)

    ``learn`` is as in one process: callbacks, logger, progress bar, ``train_freq`` and ``gradient_steps`` count the steps of
    all actors, ``envs_per_actor`` at a time. The model's own environments stand still meanwhile. Actors act with weights that
    are a few updates old: ``distributed/policy_lag_mean`` tells how many.

    An actor that dies, hangs, or whose environment raises is replaced; what it has delivered stays, and its environments begin
    new episodes. One that fails three times in a row, without a delivery in between, ends ``learn`` with its error.

    :param model: the learner, with an environment or not
    :param make_env: makes one environment, as for ``DummyVecEnv``; called in the actors. An id of Gymnasium will do
    :param n_actors: number of processes that act
    :param envs_per_actor: environments of each, which advance together. More of them make a step cheaper
    :param address: None begins Ray on this machine and ends it afterwards, unless the process has begun it already; "auto" is
        the cluster that this machine belongs to (``ray start``)
    :param stretch_length: steps of each environment that are handed over at once, a multiple of the replay buffer's stride.
        Default: about 32. Longer ones cost less, and make weights older
    :param time_limit: seconds after which an actor that has delivered nothing is replaced. A stretch must take less, also the
        first one, before which an actor imports torch and makes its environments
    :param cpus_per_actor: cores that Ray reserves for an actor, on a cluster
    :param runtime_env: of Ray, to ship modules to other machines: ``{"py_modules": [module]}``
    :raises ImportError: if Ray is not installed
    :raises ValueError: for impossible settings, naming parameter, value and remedy
    """

    actor_class: ClassVar[type[Actor]] = Actor

    def __init__(
        self,
        model: RecurrentOffPolicyAlgorithm,
        make_env: str | Callable[[], gym.Env],
        n_actors: int = 2,
        envs_per_actor: int = 8,
        address: str | None = None,
        stretch_length: int | None = None,
        time_limit: float = 300.0,
        cpus_per_actor: float = 1.0,
        runtime_env: dict[str, Any] | None = None,
    ):
        _import_ray()
        check_numbers(0, time_limit=time_limit, cpus_per_actor=cpus_per_actor)
        self.model, self.address, self.runtime_env = model, address, runtime_env
        self.cpus_per_actor, self.time_limit = cpus_per_actor, time_limit
        self._contract = contract_of(model, make_env, n_actors, envs_per_actor, stretch_length)
        self._stack = ExitStack()

    def __enter__(self) -> "RayActors":
        with ExitStack() as stack:
            self._begin_ray(stack)
            seed = np.random.randint(2**31) if self.model.seed is None else self.model.seed
            self.transport = transport = RayTransport(self._contract, self.cpus_per_actor, seed, self.actor_class)
            stack.callback(transport.close)
            self.fleet = stack.enter_context(attached(self.model, self._contract, transport, self.time_limit))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def _begin_ray(self, stack: ExitStack) -> None:
        ray = _import_ray()
        if ray.is_initialized():
            return
        local: dict[str, Any] = {}
        if self.address is None:
            # Logical cores: actors share those that there are
            local["num_cpus"] = math.ceil(max(self._contract.n_actors * self.cpus_per_actor, os.cpu_count() or 1))
            local["object_store_memory"] = OBJECT_STORE_BYTES + self._bytes_in_flight()
            local["include_dashboard"] = False
        ray.init(address=self.address, runtime_env=self.runtime_env, logging_level=logging.WARNING, **local)
        stack.callback(ray.shutdown)

    def _bytes_in_flight(self) -> int:
        ring, contract = self.model.replay_buffer.rings[0], self._contract
        per_step = ring.estimate_nbytes(self.model.policy.state_size) // (ring.n_rows * ring.n_envs) + 1
        return 2 * ORDERS_PER_ACTOR * contract.n_actors * contract.n_envs * contract.stretch_length * per_step
