"""RecurrentDDPG: RecurrentTD3 without its tricks."""

from functools import partialmethod
from typing import Any

from sb3_recurrent_offpolicy.td3 import RecurrentTD3


class RecurrentDDPG(RecurrentTD3):
    """
    Deep Deterministic Policy Gradient with a recurrent actor and a recurrent critic (RDPG).

    DDPG: Lillicrap et al. 2015, https://arxiv.org/abs/1509.02971. RDPG: Heess et al. 2015, https://arxiv.org/abs/1512.04455

    The parameters are those of :class:`~sb3_recurrent_offpolicy.td3.RecurrentTD3`. Only defaults differ: the actor is
    updated with every critic update, target actions carry no noise, and there is one critic.
    """

    # Remove all tricks from TD3 to obtain DDPG
    __init__ = partialmethod(RecurrentTD3.__init__, policy_delay=1, target_policy_noise=0.0, target_noise_clip=0.0)

    @classmethod
    def complete_policy_kwargs(cls, policy_kwargs: dict[str, Any]) -> dict[str, Any]:
        return super().complete_policy_kwargs({"n_critics": 1} | policy_kwargs)
