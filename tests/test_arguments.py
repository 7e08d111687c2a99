"""Arguments that are SB3's own or are handed on: to networks, optimizers and replay buffers, which follow them."""

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.torch_layers import get_actor_critic_arch

from sb3_recurrent_offpolicy import R2D2, RecurrentDDPG, RecurrentSAC, RecurrentTD3
from sb3_recurrent_offpolicy.buffers import RecurrentSequenceReplayBuffer
from tests.setup import model_on, random_envs


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        dict(net_arch=dict(pi=[5], qf=[6, 4]), activation_fn=th.nn.Tanh),
        dict(optimizer_class=th.optim.SGD, optimizer_kwargs=dict(momentum=0.9)),
        dict(n_critics=1, share_features_extractor=True),
        dict(lstm_kwargs=dict(bias=False), n_lstm_layers=2),
        dict(net_arch=[]),
    ],
)
def test_policy_kwargs(policy_kwargs: dict[str, Any]) -> None:
    """Each is followed: by layers, activations, heads, biases and the optimiser, all of which are learned."""
    model = model_on(random_envs(1), policy_kwargs=dict(lstm_hidden_size=5) | policy_kwargs)
    before = [parameter.clone() for parameter in (*model.actor.parameters(), *model.critic.parameters())]
    model.learn(40)
    assert not any(map(th.equal, before, (*model.actor.parameters(), *model.critic.parameters())))

    def hidden_sizes(head: Any) -> list[int]:
        return [layer.out_features for layer in head if isinstance(layer, th.nn.Linear)][:-1]

    net_arch = policy_kwargs.get("net_arch", [64, 64])
    actor_arch, critic_arch = get_actor_critic_arch(net_arch)
    assert hidden_sizes(model.actor.mu) == actor_arch
    assert [hidden_sizes(head) for head in model.critic.q_networks] == [critic_arch] * policy_kwargs.get("n_critics", 2)
    activations = {type(layer) for layer in model.critic.q_networks[0] if not isinstance(layer, th.nn.Linear)}
    assert activations == ({policy_kwargs.get("activation_fn", th.nn.ReLU)} if critic_arch else set())
    assert isinstance(model.actor.optimizer, policy_kwargs.get("optimizer_class", th.optim.Adam))
    assert model.actor.optimizer.defaults.get("momentum", 0.9) == 0.9
    core = model.actor.encoder.core
    assert len(core.state_shapes[0]) == 2 and core.state_shapes[0][0] == policy_kwargs.get("n_lstm_layers", 1)
    assert core.rnn.bias == policy_kwargs.get("lstm_kwargs", {}).get("bias", True)


def test_the_users_policy_kwargs_stay_as_they_are() -> None:
    policy_kwargs = dict(lstm_hidden_size=5)
    for algorithm in (RecurrentSAC, RecurrentDDPG, RecurrentTD3):
        model_on(random_envs(1), algorithm, policy_kwargs=policy_kwargs)
        assert policy_kwargs == dict(lstm_hidden_size=5)


def test_names_and_order_are_sb3s() -> None:
    import inspect

    from stable_baselines3 import DQN, SAC, TD3

    for algorithm, counterpart in ((RecurrentTD3, TD3), (RecurrentSAC, SAC), (R2D2, DQN)):
        theirs = list(inspect.signature(counterpart).parameters)
        ours = list(inspect.signature(algorithm).parameters)
        assert ours[: len(theirs) - 1] == theirs[:-1] and theirs[-1] == "_init_setup_model" in ours
        assert set(algorithm.default_settings) <= set(ours)
        with pytest.raises(TypeError, match="sequence_lenght"):
            algorithm("MlpLstmPolicy", "Pendulum-v1", sequence_lenght=3)  # type: ignore[call-arg]
    of_td3 = inspect.signature(RecurrentTD3).parameters
    assert set(inspect.signature(RecurrentDDPG).parameters) == set(of_td3)


def test_optimize_memory_usage_is_always_on() -> None:
    with pytest.warns(UserWarning, match="has no effect"):
        model = model_on(random_envs(1), optimize_memory_usage=True)
    model.learn(40)
    model.learn(40)


def test_n_step_warning_of_sb3_does_not_apply(recwarn: pytest.WarningsRecorder) -> None:
    model_on(random_envs(1), n_steps=3)
    assert not [warning for warning in recwarn if "n_steps" in str(warning.message)]


def test_a_subclass_of_the_buffer() -> None:
    class Mine(RecurrentSequenceReplayBuffer):
        pass

    model = model_on(random_envs(1), replay_buffer_class=Mine, replay_buffer_kwargs=dict(stride=4))
    assert isinstance(model.replay_buffer, Mine) and model.replay_buffer.stride == 4
