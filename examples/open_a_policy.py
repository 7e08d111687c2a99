"""
What does the memory know? Train R2D2 to remember a cue, then ask whether it needs its memory, how far back it reaches, whether
the cue can be read from it, and what machine of few states does the same.

Needs `pip install ".[zoo,analysis]"`. `python -m sb3_recurrent_offpolicy.analysis` makes a page of all this from a saved zip.
"""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_recurrent_offpolicy.envs  # noqa: F401  registers MemoryLength-v0
from sb3_recurrent_offpolicy import R2D2
from sb3_recurrent_offpolicy.analysis import completed, extract_machine, memory_use, minimized, probe, quantize

ENV_ID = "MemoryLength-v0"


def main(total_timesteps: int = 40_000) -> None:
    """:param total_timesteps: steps to train for"""
    model = R2D2("MlpLstmPolicy", make_vec_env(ENV_ID, n_envs=8, seed=0), seed=0)
    model.learn(total_timesteps)

    print(memory_use(model, ENV_ID, show_progress=True))
    print(probe(model, ENV_ID, {"cue": "context[0]"}, show_progress=True))

    quantized, report = quantize(model, ENV_ID, observation_code=4, memory_code=4, show_progress=True)
    print(report)
    machine, _ = extract_machine(quantized, ENV_ID)
    smallest = minimized(completed(machine))
    mean, _ = evaluate_policy(smallest, make_vec_env(ENV_ID, n_envs=8, seed=1), n_eval_episodes=100)
    print(f"{machine.n_states - 1} states, {smallest.n_states - 1} after minimisation; mean return {mean:.2f}")


if __name__ == "__main__":
    main()
