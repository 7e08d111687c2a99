"""
Recurrent cores: what carries memory from step to step.

A core knows two ways forward that must agree: ``step`` for acting and ``unroll`` for learning. Policies take one by its name
in :data:`CORES`, or any subclass of :class:`RecurrentCore`: ``policy_kwargs=dict(core=MyCore)``. Run :func:`check_core` on
your own first, as you run ``check_env`` on an environment.
"""

from sb3_recurrent_offpolicy.cores.check import check_core
from sb3_recurrent_offpolicy.cores.core import NoCore, RecurrentCore
from sb3_recurrent_offpolicy.cores.elementwise import MinGRUCore, RTUCore
from sb3_recurrent_offpolicy.cores.gated import GRUCore, LSTMCore

__all__ = ["CORES", "GRUCore", "LSTMCore", "MinGRUCore", "NoCore", "RTUCore", "RecurrentCore", "check_core", "get_core"]

CORES: dict[str, type[RecurrentCore]] = {
    "gru": GRUCore,
    "lstm": LSTMCore,
    "mingru": MinGRUCore,
    "none": NoCore,
    "rtu": RTUCore,
}


def get_core(core: str | type[RecurrentCore]) -> type[RecurrentCore]:
    """
    :param core: a name, or the class itself
    :return: the class
    :raises ValueError: if there is none of this name, or the class is no core
    """
    if isinstance(core, type) and issubclass(core, RecurrentCore):
        return core
    if core not in CORES:
        raise ValueError(f"core={core!r} must be one of {sorted(CORES)}, or a subclass of RecurrentCore")
    return CORES[str(core)]
