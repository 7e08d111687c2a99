"""What acts: memory, networks and how to ask them."""

from functools import partialmethod
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_recurrent_offpolicy.networks import RunningNormCombinedExtractor
from sb3_recurrent_offpolicy.policies.actor_critic import RecurrentActorCriticPolicy
from sb3_recurrent_offpolicy.policies.base import RecurrentPolicy
from sb3_recurrent_offpolicy.policies.r2d2 import R2D2Policy
from sb3_recurrent_offpolicy.policies.sac import RecurrentSACPolicy
from sb3_recurrent_offpolicy.policies.td3 import RecurrentTD3Policy
from sb3_recurrent_offpolicy.policies.trace import Trace

__all__ = [
    "POLICY_NAMES",
    "R2D2Policy",
    "RecurrentActorCriticPolicy",
    "RecurrentPolicy",
    "RecurrentSACPolicy",
    "RecurrentTD3Policy",
    "Trace",
    "check_policy_name",
    "named_policy_kwargs",
]

# What a name stands for: the algorithm's policy class with these policy_kwargs
POLICY_NAMES: dict[str, dict[str, Any]] = {
    "MlpLstmPolicy": {},
    "CnnLstmPolicy": dict(features_extractor_class=NatureCNN),
    "MultiInputLstmPolicy": dict(features_extractor_class=RunningNormCombinedExtractor),
    "MlpGruPolicy": dict(core="gru"),
    "CnnGruPolicy": dict(features_extractor_class=NatureCNN, core="gru"),
    "MultiInputGruPolicy": dict(features_extractor_class=RunningNormCombinedExtractor, core="gru"),
}


# Their policies also go by classes such as TD3CnnLstmPolicy, one for each name
_FAMILIES: dict[str, type[RecurrentPolicy]] = {
    "TD3": RecurrentTD3Policy,
    "SAC": RecurrentSACPolicy,
    "R2D2": R2D2Policy,
}


def __getattr__(name: str) -> type[RecurrentPolicy]:
    for family, policy in _FAMILIES.items():
        alias = name.removeprefix(family)
        if alias != name and POLICY_NAMES.get(alias):
            constructor = partialmethod(policy.__init__, **POLICY_NAMES[alias])
            # Made once, so that what is pickled by its name is the same class again
            globals()[name] = type(name, (policy,), {"__module__": __name__, "__init__": constructor})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def named_policy_kwargs(policy: Any, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param policy: a name, or a policy class
    :param policy_kwargs: the user's
    :return: with those that the name stands for; the user's count where both say something
    """
    named = POLICY_NAMES.get(policy, {}) if isinstance(policy, str) else {}
    if "core_class" in policy_kwargs:
        named = {name: value for name, value in named.items() if name != "core"}
    return named | policy_kwargs


def check_policy_name(policy: Any, observation_space: spaces.Space) -> None:
    """
    :param policy: a name, or a policy class
    :param observation_space: observation space
    :raises ValueError: if the name is for another kind of observations
    """
    if isinstance(policy, str) and policy.startswith("MultiInput") != isinstance(observation_space, spaces.Dict):
        raise ValueError(
            f"policy='{policy}' does not fit the observation space {observation_space}: MultiInputLstmPolicy and "
            "MultiInputGruPolicy are for Dict spaces, and for nothing else"
        )
