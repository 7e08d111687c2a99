"""From a trained policy to one whose memory and observations are ternary codes."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_recurrent_offpolicy.analysis.bottlenecks import Bottleneck, fit
from sb3_recurrent_offpolicy.analysis.opened import OpenedPolicy
from sb3_recurrent_offpolicy.analysis.playing import EnvLike, Episode, PolicyPlayer, envs_of, record, returns_of
from sb3_recurrent_offpolicy.analysis.progress import progress
from sb3_recurrent_offpolicy.analysis.quantized import OBSERVATION, OUTPUT, QuantizedPolicy
from sb3_recurrent_offpolicy.analysis.recall import network_inputs
from sb3_recurrent_offpolicy.analysis.remembering import Zeroed
from sb3_recurrent_offpolicy.checks import check_integers, check_numbers
from sb3_recurrent_offpolicy.networks import RecurrentQNetwork
from sb3_recurrent_offpolicy.type_aliases import CoreState

# Starts of what is fitted, of what chooses the weights, and of what is reported lie far apart
_FIT_SEED, _CHOICE_SEED = 2_000_003, 3_000_017
# Steps that gradients go back, theirs
BPTT_STEPS = 50
# Over all lessons, in each round
EPOCHS = 2


class QuantizationReport(NamedTuple):
    """What :func:`quantize` has found; returns of episodes, all from the same starts."""

    original: np.ndarray
    """Of the policy"""
    zeroed: np.ndarray
    """With its memory zeroed at every step"""
    alone: dict[str, np.ndarray]
    """With each bottleneck alone, before fine-tuning"""
    inserted: np.ndarray
    """With all of them, before fine-tuning"""
    tuned: np.ndarray
    """With all of them, after it"""
    errors: dict[str, float]
    """Squared error of each bottleneck on held-out episodes, in units of the spread"""
    agreement: float
    """Held-out steps on which the tuned policy chooses the action of the original; for Box, within 5 % of the range"""

    def kept(self, returns: np.ndarray) -> float:
        """
        :param returns: of episodes
        :return: the part of what the memory is worth that is kept: 1 for the original, 0 for zeroed memory
        """
        worth = self.original.mean() - self.zeroed.mean()
        return float((returns.mean() - self.zeroed.mean()) / worth) if worth > 0 else float("nan")

    def __str__(self) -> str:
        rows = [("original", self.original), ("memory zeroed", self.zeroed)]
        rows += [(f"{name} alone", returns) for name, returns in self.alone.items()]
        rows += [("all inserted", self.inserted), ("all, fine-tuned", self.tuned)]
        lines = [f"{name:<20}{returns.mean():>10.2f}{self.kept(returns):>9.1%}" for name, returns in rows]
        return "\n".join([f"{'':<20}{'return':>10}{'kept':>9}", *lines, f"agreement {self.agreement:.1%}"])


def quantize(
    model: Any,
    env: EnvLike,
    observation_code: int = 8,
    memory_code: int = 16,
    n_episodes: int = 100,
    n_rounds: int = 10,
    tune_policy: bool = False,
    enough: float = 0.99,
    learning_rate: float = 3e-4,
    seed: int = 0,
    show_progress: bool = False,
) -> tuple[QuantizedPolicy, QuantizationReport]:
    """
    Quantized bottleneck networks (Koul et al. 2019, https://arxiv.org/abs/1811.12530): fit autoencoders with ternary codes to
    what the greedy policy sees and remembers, insert them, and fine-tune them through time until the quantized policy chooses
    as the original does. Episodes are either fitted or held out.

    Fine-tuning goes in rounds. In the first, the quantized policy follows the greedy episodes of the original; in the later
    ones also episodes that it has played itself, in which the original says what it would do (DAgger, Ross et al. 2011):
    where quantization leads astray there is nothing to learn from otherwise. The weights of the round with the best return on
    starts of their own are kept, and rounds end when that keeps ``enough`` of what the memory is worth.

    :param model: an algorithm of this package or ``RecurrentPPO``
    :param env: id, function or environment; see :func:`~sb3_recurrent_offpolicy.analysis.playing.envs_of`
    :param observation_code: size of the observation's code. Small codes make small machines, if they can tell enough apart
    :param memory_code: size of the code of each array of the memory
    :param n_episodes: to fit and to score; a fifth of those to fit is held out
    :param n_rounds: of fine-tuning, at most; 0 for none
    :param tune_policy: tune the weights of the policy, too (a copy of them)
    :param enough: part of the original's return over that of zeroed memory at which fine-tuning ends
    :param learning_rate: of fine-tuning. At higher rates codes do not settle: to move one code changes all that follow
    :param seed: of starts, weights and order
    :param show_progress: show a progress bar
    :return: the quantized policy, and returns of what was inserted
    :raises ValueError: if the policy is of another family, or spaces differ
    """
    check_integers(1, observation_code=observation_code, memory_code=memory_code)
    check_integers(5, n_episodes=n_episodes)
    check_integers(0, n_rounds=n_rounds)
    check_numbers(0, learning_rate=learning_rate, enough=enough)
    opened = OpenedPolicy(model)
    quantized = QuantizedPolicy(model, observation_code, memory_code, seed)

    def returns(player: Any, of_seed: int = seed) -> np.ndarray:
        with envs_of(opened, env, n_episodes, of_seed) as envs:
            return returns_of(envs, player, n_episodes)

    def quantized_returns(of_seed: int = seed) -> np.ndarray:
        return returns(PolicyPlayer(OpenedPolicy(quantized)), of_seed)

    with progress("quantization", show_progress, total=3 + len(quantized.bottlenecks) + n_rounds) as advance:
        advance("episodes")
        with envs_of(opened, env, n_episodes, seed + _FIT_SEED) as envs:
            episodes = record(opened, envs, n_episodes)
        n_held_out = max(1, n_episodes // 5)
        lessons = [_lesson(opened, episode) for episode in episodes]
        errors = {}
        for name, rows in _rows(quantized, lessons).items():
            advance(name)
            bottleneck = quantized.bottlenecks[name]
            assert isinstance(bottleneck, Bottleneck)
            errors[name] = fit(bottleneck, th.cat(rows[n_held_out:]), th.cat(rows[:n_held_out]), seed=seed)
        advance("insertion")
        everything = set(quantized.bottlenecks)
        alone = {}
        for name in quantized.bottlenecks:
            quantized.inserted = {name}
            alone[name] = quantized_returns()
        quantized.inserted = everything
        report = QuantizationReport(
            returns(PolicyPlayer(opened)),
            returns(Zeroed(opened)),
            alone,
            quantized_returns(),
            np.empty(0),
            errors,
            0.0,
        )
        held_out, lessons = lessons[:n_held_out], lessons[n_held_out:]
        goal = returns(PolicyPlayer(opened), seed + _CHOICE_SEED).mean()
        floor = returns(Zeroed(opened), seed + _CHOICE_SEED).mean()
        parts: list[nn.Module] = [quantized.bottlenecks, *([quantized.network.module] if tune_policy else [])]
        best, best_weights = -np.inf, [_weights(part) for part in parts]
        parameters = [parameter for part in parts for parameter in part.parameters()]
        optimizer = th.optim.Adam(parameters, lr=learning_rate)
        rng = np.random.default_rng(seed)
        for round_ in range(n_rounds + 1):
            found = quantized_returns(seed + _CHOICE_SEED).mean()
            if found > best:
                best, best_weights = found, [_weights(part) for part in parts]
            if round_ == n_rounds or best >= floor + enough * (goal - floor):
                break
            advance(f"fine-tuning, return {best:.4g}")
            if round_ > 0:
                lessons += _own_lessons(quantized, opened, env, n_episodes // 4, seed + _FIT_SEED + 1000 * round_)
            for _ in range(EPOCHS):
                _tune(quantized, lessons, optimizer, rng)
        for part, weights in zip(parts, best_weights, strict=True):
            part.load_state_dict(weights)
        advance("returns")
        report = report._replace(tuned=quantized_returns(), agreement=_agreement(quantized, held_out))
    return quantized, report


def _weights(module: nn.Module) -> dict[str, th.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class _Lesson(NamedTuple):
    """An episode, and what the original makes of it."""

    inputs: th.Tensor
    """Of the memory, (T, I)"""
    states: tuple[th.Tensor, ...]
    """Memory after each step, flat: (T, layers * hidden) each"""
    memories: th.Tensor
    """What the memory gives out, (T, H)"""
    outputs: th.Tensor
    """What actions are chosen by, (T, O)"""


@th.no_grad()
def _lesson(opened: OpenedPolicy, episode: Episode) -> _Lesson:
    inputs = network_inputs(opened, episode)
    # The model's own network: that of the quantized policy may have been tuned
    network = opened.network()
    state = network.core.initial_state(1)
    states, memories = [], []
    for row in inputs:
        memory, state = network.core.step(row[None], state)
        states.append([array.flatten() for array in state])
        memories.append(memory[0])
    stacked = th.stack(memories)
    return _Lesson(
        inputs,
        tuple(th.stack(arrays) for arrays in zip(*states, strict=True)),
        stacked,
        network.outputs(stacked, inputs),
    )


def _own_lessons(quantized: QuantizedPolicy, opened: OpenedPolicy, env: EnvLike, n_episodes: int, seed: int) -> list[_Lesson]:
    """Of episodes that the quantized policy plays."""
    with envs_of(opened, env, max(1, n_episodes), seed) as envs:
        episodes = record(OpenedPolicy(quantized), envs, max(1, n_episodes))
    return [_lesson(opened, episode) for episode in episodes]


def _rows(quantized: QuantizedPolicy, lessons: list[_Lesson]) -> dict[str, list[th.Tensor]]:
    """What each bottleneck is fitted to, by name, of each lesson."""
    rows = {OBSERVATION: [lesson.inputs for lesson in lessons]}
    for index, name in enumerate(quantized.memory_names):
        rows[name] = [lesson.states[index] for lesson in lessons]
    if OUTPUT in quantized.bottlenecks:
        rows[OUTPUT] = [lesson.memories for lesson in lessons]
    return rows


def _loss(quantized: QuantizedPolicy, outputs: th.Tensor, wanted: th.Tensor, spread: float) -> th.Tensor:
    """How far outputs (n, O) are from those of the original: (n,)."""
    if not quantized.opened.is_discrete:
        return (outputs - wanted).square().sum(dim=-1)
    if isinstance(quantized.network.module, RecurrentQNetwork):
        # Advantages in units of their spread: a temperature at which the better actions stand out
        outputs, wanted = (4 * (each - each.mean(dim=-1, keepdim=True)) / spread for each in (outputs, wanted))
    outputs, wanted = (each.log_softmax(dim=-1) for each in (outputs, wanted))
    return nn.functional.kl_div(outputs, wanted, reduction="none", log_target=True).sum(dim=-1)


def _tune(
    quantized: QuantizedPolicy,
    lessons: list[_Lesson],
    optimizer: th.optim.Optimizer,
    rng: np.random.Generator,
    batch_size: int = 8,
) -> None:
    """Once over the lessons, through time."""
    everything = th.cat([lesson.outputs for lesson in lessons])
    spread = max((everything - everything.mean(dim=-1, keepdim=True)).std().item(), 1e-6)
    core = quantized.network.core
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # Lessons of about the same length together
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].inputs))
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    for batch in rng.permutation(len(batches)):
        chosen = [lessons[i] for i in batches[batch]]
        inputs, wanted = (
            nn.utils.rnn.pad_sequence([getattr(lesson, name) for lesson in chosen]) for name in ("inputs", "outputs")
        )
        exists = nn.utils.rnn.pad_sequence([th.ones(len(lesson.inputs), device=inputs.device) for lesson in chosen])
        state: CoreState = core.initial_state(len(chosen))
        for begin in range(0, len(inputs), BPTT_STEPS):
            state = tuple(array.detach() for array in state)
            outputs = []
            for row in inputs[begin : begin + BPTT_STEPS]:
                found = quantized.step(row, state)
                state = found.state
                outputs.append(found.outputs)
            stretch = slice(begin, begin + len(outputs))
            losses = _loss(quantized, th.stack(outputs), wanted[stretch], spread)
            optimizer.zero_grad()
            ((losses * exists[stretch]).sum() / exists[stretch].sum().clamp(min=1)).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()


@th.no_grad()
def _agreement(quantized: QuantizedPolicy, lessons: list[_Lesson]) -> float:
    agreed, n_steps = 0, 0
    for lesson in lessons:
        state = quantized.network.core.initial_state(1)
        for row, wanted in zip(lesson.inputs, lesson.outputs, strict=True):
            found = quantized.step(row[None], state)
            state = found.state
            if quantized.opened.is_discrete:
                agreed += int(found.outputs.argmax() == wanted.argmax())
            else:
                agreed += int((found.outputs[0] - wanted).abs().mean() <= 0.1)
        n_steps += len(lesson.inputs)
    return agreed / n_steps
