"""
Networks with memory: what actor and critic are made of.

Every network reads the history through a memory and the present directly::

    m_t = core(m_{t-1}, [features(o_t), a_{t-1}])      what was observed and done
    actor:   pi(m_t, features(o_t))
    critic:  Q(m_t, features(o_t), a_t)                a_t joins behind the memory, never inside it
"""

from sb3_recurrent_offpolicy.networks.actors import (
    CategoricalActor,
    DeterministicActor,
    RecurrentActor,
    SquashedGaussianActor,
)
from sb3_recurrent_offpolicy.networks.critics import (
    RecurrentContinuousCritic,
    RecurrentCritic,
    RecurrentDiscreteCritic,
    RecurrentQNetwork,
)
from sb3_recurrent_offpolicy.networks.encoder import Head, HistoryEncoder
from sb3_recurrent_offpolicy.networks.extractors import RunningNormCombinedExtractor, RunningNormExtractor

__all__ = [
    "CategoricalActor",
    "DeterministicActor",
    "Head",
    "HistoryEncoder",
    "RecurrentActor",
    "RecurrentContinuousCritic",
    "RecurrentCritic",
    "RecurrentDiscreteCritic",
    "RecurrentQNetwork",
    "RunningNormCombinedExtractor",
    "RunningNormExtractor",
    "SquashedGaussianActor",
]
