"""Actors on two machines, as Ray's own tests make them on one: what a dead machine takes with it is replaced on another."""

from collections.abc import Iterator
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_recurrent_offpolicy.distributed import RayActors
from tests.fleet import NumberedEnv, check_fleet
from tests.test_distributed import r2d2

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A machine that only learns, and two that act."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, object_store_memory=128 << 20))
    nodes = [found.add_node(num_cpus=2, object_store_memory=128 << 20) for _ in range(2)]
    ray.init(address=found.address, log_to_driver=False)
    yield found, nodes
    ray.shutdown()
    found.shutdown()


def node_of(actor: Any) -> str:
    return ray.get_runtime_context().get_node_id()


class RemoveNode(BaseCallback):
    def __init__(self, cluster: Any, node: Any):
        super().__init__()
        self.cluster, self.node = cluster, node

    def _on_step(self) -> bool:
        if self.node is not None and self.num_timesteps > 200:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None
        return True


def test_actors_of_a_machine_that_dies_go_on_elsewhere(cluster: Any) -> None:
    found, nodes = cluster
    model = r2d2(buffer_size=100_000)
    with RayActors(model, NumberedEnv, n_actors=2, envs_per_actor=2, stretch_length=8) as actors:
        used = {ray.get(actor.__ray_call__.remote(node_of)) for actor in actors.transport.actors}
        # Ray may start both on one machine
        model.learn(1000, callback=RemoveNode(found, next(node for node in nodes if node.node_id in used)))
        # Ray takes seconds to notice
        while actors.fleet.records.n_restarts == 0 and model.num_timesteps < 80_000:
            model.learn(400, reset_num_timesteps=False)
        assert actors.fleet.records.n_restarts >= 1
    check_fleet(model)
