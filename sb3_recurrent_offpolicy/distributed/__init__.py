"""Many processes that act, and one that learns."""

from sb3_recurrent_offpolicy.distributed.ray_actors import RayActors

__all__ = ["RayActors"]
