"""What all tools have to say about one policy, apart from how it is shown."""

import base64
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_recurrent_offpolicy.analysis.contamination import Contamination, contamination
from sb3_recurrent_offpolicy.analysis.extraction import Walk, completed, extract_machine, learned, minimized
from sb3_recurrent_offpolicy.analysis.machine import MooreMachine
from sb3_recurrent_offpolicy.analysis.memory_use import MemoryUse, memory_use
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Episode, PolicyPlayer, Quantity, envs_of, record, returns_of
from sb3_recurrent_offpolicy.analysis.probing import Probes, probe
from sb3_recurrent_offpolicy.analysis.progress import progress
from sb3_recurrent_offpolicy.analysis.quantized import QuantizedPolicy
from sb3_recurrent_offpolicy.analysis.quantizing import QuantizationReport, quantize
from sb3_recurrent_offpolicy.analysis.recall import RecallDensity, recall_density
from sb3_recurrent_offpolicy.checks import check_installed, check_integers
from sb3_recurrent_offpolicy.preprocessing import map_observation

# Of the episode that is shown step by step; a browser draws that many without delay
MOST_STEPS = 1000
MOST_PICTURES = 100
_PICTURE_SIZE = 240
# Gradients and memories of more episodes change no picture
_MOST_RECALL, _MOST_PORTRAIT = 20, 50
# Beyond it, completing and minimising a table takes long, and learning takes minutes
MOST_ENTRIES = 200_000
MOST_LEARNED = 1000

_PICTURE = "picture of the step"
# How machines are made
SEEN, MINIMIZED, LEARNED = "as it was seen", "completed and minimised", "learned by RPNI"


class ScoredMachine(NamedTuple):
    """A machine and how well it acts."""

    name: str
    """How it was made: SEEN, MINIMIZED or LEARNED"""
    machine: MooreMachine
    returns: np.ndarray
    """Of episodes from the same starts as the policy's"""
    asked: float
    """Part of the steps at which the quantized policy had to be asked"""


class Findings(NamedTuple):
    """What :func:`findings_of` has found. ``None`` and empty lists stand for what was not asked for, or cannot be known."""

    title: str
    algorithm: str
    """Name of the class"""
    task: str
    """Name of the environment"""
    n_episodes: int
    use: MemoryUse
    odd: Contamination
    episode: Episode
    """Whose return is the median, at most the first 1000 steps"""
    n_steps: int
    """That the episode really has"""
    pictures: dict[int, str]
    """Of some of its steps: data URIs"""
    portrait: list[Episode]
    """Whose memories are drawn"""
    recall: RecallDensity | None
    probes: Probes | None
    quantization: QuantizationReport | None
    machines: list[ScoredMachine]
    walks: list[Walk]
    """Through the first of the machines"""
    remarks: list[str]
    """On what was left out, and why"""


def findings_of(
    model: Any,
    env: EnvLike,
    quantities: Mapping[str, Quantity] | None = None,
    n_episodes: int = 100,
    with_machine: bool = True,
    observation_code: int = 8,
    memory_code: int = 16,
    seed: int = 0,
    show_progress: bool = False,
    title: str | None = None,
) -> Findings:
    """
    Ask every tool of this package with its own defaults.

    :param model: of this package, or sb3-contrib's ``RecurrentPPO``; of others whose ``predict`` is alike, no gradients and no
        machine
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`. An id whose
        environment draws images gives pictures of the episode
    :param quantities: hidden ones to decode from the memory, by name; see
        :func:`~sb3_recurrent_offpolicy.analysis.probing.probe`
    :param n_episodes: that each tool plays, 10 at least: a fifth of them is held out here and there
    :param with_machine: quantize the policy and extract machines, which takes longest
    :param observation_code: see :func:`~sb3_recurrent_offpolicy.analysis.quantizing.quantize`
    :param memory_code: see there
    :param seed: of the starts
    :param show_progress: show progress bars
    :param title: of the page, None for algorithm and task
    :return: the findings
    :raises ValueError: if the model has no memory, or spaces differ
    :raises ImportError: if the extra is missing
    """
    check_installed("analysis", "sklearn", "aalpy")
    check_integers(10, n_episodes=n_episodes)
    opened = OpenedPolicy(model)
    remarks: list[str] = []
    recall, probes, quantization = None, None, None
    machines: list[ScoredMachine] = []
    walks: list[Walk] = []
    with progress("findings", show_progress, total=7) as advance:
        advance("memory use")
        use = memory_use(model, env, n_episodes, seed=seed, show_progress=show_progress)
        advance("odd observation")
        odd = contamination(model, env, n_episodes=n_episodes, seed=seed)
        advance("episode")
        episode, pictures = _median_episode(opened, env, use, quantities, seed)
        advance("memories")
        n_portrait = min(n_episodes, _MOST_PORTRAIT)
        with envs_of(opened, env, n_portrait, seed) as envs:
            task = _name_of(envs)
            portrait = record(opened, envs, n_portrait, quantities)
        try:
            opened.network()
        except ValueError as error:
            remarks.append(f"No recall density and no machine: {error}.")
            with_machine = False
        else:
            advance("recall density")
            recall = recall_density(model, env, n_episodes=min(n_episodes, _MOST_RECALL), seed=seed)
        if quantities:
            advance("probes")
            probes = probe(model, env, quantities, n_episodes, seed=seed, show_progress=show_progress)
        if with_machine:
            advance("machine")
            quantized, quantization = quantize(
                model, env, observation_code, memory_code, n_episodes, seed=seed, show_progress=show_progress
            )
            machines, walks = _machines(quantized, env, n_episodes, seed, remarks)
    algorithm = type(model).__name__
    n_steps = len(episode.rewards)
    if n_steps > MOST_STEPS:
        remarks.append(f"Of the episode that is shown, the first {MOST_STEPS} of {n_steps} steps.")
    return Findings(
        title or f"The memory of {algorithm} on {task}",
        algorithm,
        task,
        n_episodes,
        use,
        odd,
        _first_steps(episode, MOST_STEPS),
        n_steps,
        pictures,
        portrait,
        recall,
        probes,
        quantization,
        machines,
        walks,
        remarks,
    )


def _name_of(envs: VecEnv) -> str:
    try:
        spec = envs.get_attr("spec")[0]
    except AttributeError:
        spec = None
    if spec is not None:
        return spec.id
    return type(envs.get_attr("unwrapped")[0]).__name__


def _median_episode(
    opened: OpenedPolicy, env: EnvLike, use: MemoryUse, quantities: Mapping[str, Quantity] | None, seed: int
) -> tuple[Episode, dict[int, str]]:
    """With the median return where its start is known, else the first one; and pictures of its steps."""
    if use.is_paired:
        returns = use.returns["as it is"]
        seed += int(np.abs(returns - np.quantile(returns, 0.5, method="lower")).argmin())
    camera = _Camera()
    with envs_of(opened, env, 1, seed, n_envs=1) as envs:
        (episode,) = record(opened, envs, 1, {**(quantities or {}), _PICTURE: camera.look})
    del episode.quantities[_PICTURE]
    n_steps = len(camera.pictures)
    every = -(-n_steps // MOST_PICTURES)
    return episode, {step: camera.pictures[step] for step in range(0, n_steps, max(every, 1))}


class _Camera:
    """Pictures of the first environment, as long as it can draw."""

    def __init__(self) -> None:
        self.pictures: list[str] = []
        self._is_on = True

    def look(self, envs: VecEnv, _: list[dict[str, Any]]) -> np.ndarray:
        """
        A quantity that is read at each step, for what happens on the way.

        :param envs: environments
        :return: of no meaning, (n,)
        """
        if self._is_on and len(self.pictures) < MOST_STEPS and envs.render_mode == "rgb_array":
            try:
                self.pictures.append(_data_uri(envs.env_method("render", indices=[0])[0]))
            except Exception:
                # Whatever an environment's drawing lacks: a window, a library, a method. Pictures are no finding
                self._is_on = False
        return np.zeros(envs.num_envs)


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, dtype=np.uint8)).convert("RGB")
    picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _first_steps(episode: Episode, n: int) -> Episode:
    return Episode(
        map_observation(lambda array: array[:n], episode.observations),
        episode.actions[:n],
        episode.rewards[:n],
        episode.memories[:n],
        {name: values[:n] for name, values in episode.quantities.items()},
    )


def _machines(
    quantized: QuantizedPolicy, env: EnvLike, n_episodes: int, seed: int, remarks: list[str]
) -> tuple[list[ScoredMachine], list[Walk]]:
    seen, walks = extract_machine(quantized, env, n_episodes)
    found = {SEEN: seen}
    size = f"the machine has {seen.n_states} states and {seen.n_symbols} symbols"
    if seen.n_states * seen.n_symbols <= MOST_ENTRIES:
        found[MINIMIZED] = minimized(completed(seen))
    else:
        remarks.append(f"No minimal machine: {size}. Smaller codes make smaller machines.")
    if isinstance(quantized.action_space, spaces.Discrete) and seen.n_states <= MOST_LEARNED:
        found[LEARNED] = learned(seen, walks)
    else:
        reason = size if isinstance(quantized.action_space, spaces.Discrete) else "continuous actions hardly ever repeat"
        remarks.append(f"No machine learned by RPNI: {reason}.")
    scored = []
    for name, machine in found.items():
        machine.reset_counts()
        opened = OpenedPolicy(machine)
        with envs_of(opened, env, n_episodes, seed) as envs:
            returns = returns_of(envs, PolicyPlayer(opened), n_episodes)
        scored.append(ScoredMachine(name, machine, returns, machine.asked))
    return scored, walks
