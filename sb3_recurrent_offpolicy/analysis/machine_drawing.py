"""Machines to look at: graphs of networkx, text for Graphviz, pictures by Matplotlib."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.analysis.extraction import Walk
from sb3_recurrent_offpolicy.analysis.machine import START, MooreMachine
from sb3_recurrent_offpolicy.analysis.machine_layout import positions
from sb3_recurrent_offpolicy.checks import check_installed, check_integers, check_numbers
from sb3_recurrent_offpolicy.files import with_suffix, written_aside

if TYPE_CHECKING:
    import networkx as nx

# Colours that the colour-blind tell apart, too: Okabe & Ito 2008, without their yellow, which is hard to see on white
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7A7A7A", "#8C510A")
# Above it a picture of boxes with text is a thicket
MOST_NODES = 60
# Arrows up to which each has its label; of more, only those do that are taken often: this part of the most taken one's times
_MOST_LABELS, _OFTEN = 80, 0.1
# Numbers of an observation that a box has room for
_MOST_NUMBERS = 6
# Inches from one box to the next, and of a box
_PITCH = np.array([2.2, 1.2])
_BOX = np.array([1.65, 0.74])
_LONGEST_SIDE = 100.0


def graph_of(machine: MooreMachine, walks: Sequence[Walk] | None = None) -> "nx.DiGraph":
    """
    :param machine: a machine
    :param walks: through the machine as it was extracted; their symbols are followed through this one, and only transitions
        that are taken are kept. None for all that the table has: of a completed machine, these are too many to look at
    :return: a node for each state that can be reached, with "states" (itself), "action", "observation" (the mean), "first" and
        "last" (the same) and "visits"; edges with "symbols", and "visits" where walks are given, else None
    """
    check_installed("analysis", "networkx")
    import networkx as nx

    taken: dict[tuple[int, int], list[Any]] = {}
    if walks is None:
        for state, following in machine.successors().items():
            for then, symbols in following.items():
                taken[state, then] = [set(symbols), None]
    else:
        for walk in walks:
            state = START
            for symbol, _ in walk:
                if (state, symbol) not in machine.table:
                    break
                before, state = state, machine.table[state, symbol]
                edge = taken.setdefault((before, state), [set(), 0])
                edge[0].add(symbol)
                edge[1] += 1
    graph = nx.DiGraph(action_space=machine.action_space, n_states=machine.n_states)
    for state in range(machine.n_states):
        mean = machine.observations[state]
        graph.add_node(
            state,
            states=(state,),
            action=None if state == START else machine.actions[state],
            observation=mean,
            first=mean,
            last=mean,
            visits=int(machine.visits[state]),
        )
    for (state, then), (symbols, visits) in taken.items():
        graph.add_edge(state, then, symbols=tuple(sorted(symbols)), visits=visits)
    return graph.subgraph({START, *nx.descendants(graph, START)}).copy()


def contracted(graph: "nx.DiGraph", tolerance: float = 0.05) -> "nx.DiGraph":
    """
    Chains without a decision become one node: a state that is always followed by the same one, which follows no other and acts
    the same. Danesh et al. 2021 (https://arxiv.org/abs/2006.03745) recommend this rather than the minimal machine for reading:
    minimisation also merges states whose observations mean different things.

    :param graph: from :func:`graph_of`
    :param tolerance: of actions in a Box, as part of its range: 5 %, as where a quantized policy is said to agree
    :return: the same; "states" of a node are those of its chain, in order, "first" and "last" the observations at its ends,
        "visits" the sum
    """
    check_numbers(0, tolerance=tolerance)
    following = {}
    for node in graph:
        successors = list(graph.successors(node))
        # The beginning has no action
        if len(successors) == 1 and node not in (START, *successors):
            (then,) = successors
            if graph.in_degree(then) == 1 and _acts_alike(graph, node, then, tolerance):
                following[node] = then
    heads = [node for node in graph if node not in following.values()]
    chain_of = {}
    found = graph.__class__(**graph.graph)
    for head in heads:
        chain = [head]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        chain_of.update(dict.fromkeys(chain, head))
        members = [graph.nodes[node] for node in chain]
        visits = np.array([member["visits"] for member in members])
        mean = np.average([member["observation"] for member in members], axis=0, weights=np.maximum(visits, 1))
        found.add_node(
            head,
            states=tuple(state for member in members for state in member["states"]),
            action=members[0]["action"],
            observation=mean,
            first=members[0]["first"],
            last=members[-1]["last"],
            visits=int(visits.sum()),
        )
    for node, then, data in graph.edges(data=True):
        if following.get(node) != then:
            found.add_edge(chain_of[node], chain_of[then], **data)
    return found


def _acts_alike(graph: "nx.DiGraph", node: Hashable, other: Hashable, tolerance: float) -> bool:
    action, other_action = graph.nodes[node]["action"], graph.nodes[other]["action"]
    space = graph.graph["action_space"]
    if isinstance(space, spaces.Box):
        return bool((np.abs(action - other_action) <= tolerance * (space.high - space.low)).all())
    return bool(np.array_equal(action, other_action))


def most_visited(graph: "nx.DiGraph", most: int) -> tuple["nx.DiGraph", int]:
    """
    :param graph: from :func:`graph_of` or :func:`contracted`
    :param most: nodes to keep
    :return: the beginning and the nodes that were visited most, and how many are left out
    """
    check_integers(2, most=most)
    others = sorted((node for node in graph if node != START), key=lambda node: -graph.nodes[node]["visits"])
    kept = [START, *others[: most - 1]]
    return graph.subgraph(kept).copy(), len(graph) - len(kept)


def rounded(values: Any, most: int = _MOST_NUMBERS) -> str:
    """
    :param values: a number or an array of them
    :param most: numbers to be written
    :return: a few digits of each
    """
    numbers = [f"{value:.2g}" for value in np.ravel(values)[:most].astype(float) + 0.0]
    more = ", …" if np.size(values) > most else ""
    return numbers[0] if np.size(values) == 1 else f"({', '.join(numbers)}{more})"


def described(data: dict[str, Any]) -> list[str]:
    """
    :param data: of a node
    :return: lines: what it does, what it sees, how often
    """
    if data["action"] is None:
        return ["start", f"{data['visits']} episodes"]
    n_steps = len(data["states"])
    seen = [rounded(data["observation"])]
    if n_steps > 1:
        seen = [rounded(data["first"]), f"→ {rounded(data['last'])}"]
    visits = f"{data['visits']} visit{'s' * (data['visits'] != 1)}"
    return [f"action {rounded(data['action'])}", *seen, visits if n_steps == 1 else f"{n_steps} steps, {visits}"]


def edge_label(data: dict[str, Any]) -> str:
    """
    :param data: of an edge
    :return: how often it was taken, and in brackets by how many symbols if by several
    """
    n_symbols = len(data["symbols"])
    if data["visits"] is None:
        return f"{n_symbols} symbol{'s' * (n_symbols > 1)}"
    return f"{data['visits']}\N{MULTIPLICATION SIGN}" + (f" ({n_symbols})" if n_symbols > 1 else "")


def write_dot(
    machine: MooreMachine, path: str | Path, walks: Sequence[Walk] | None = None, is_contracted: bool = True
) -> None:
    """
    :param machine: a machine
    :param path: of the file, text for Graphviz; ".dot" is added where there is no suffix
    :param walks: see :func:`graph_of`
    :param is_contracted: chains become one node, see :func:`contracted`
    """
    check_installed("analysis", "pydot")
    import pydot

    graph = graph_of(machine, walks)
    graph = contracted(graph) if is_contracted else graph
    dot = pydot.Dot("machine", graph_type="digraph", rankdir="LR")
    for node, data in graph.nodes(data=True):
        label = "\\n".join(described(data))
        dot.add_node(pydot.Node(str(node), label=f'"{label}"', shape="box" if node != START else "ellipse"))
    for node, then, data in graph.edges(data=True):
        dot.add_edge(pydot.Edge(str(node), str(then), label=f'"{edge_label(data)}"'))
    with written_aside(with_suffix(path, ".dot")) as file:
        file.write(dot.to_string().encode())


def draw_machine(
    machine: MooreMachine,
    path: str | Path,
    walks: Sequence[Walk] | None = None,
    is_contracted: bool = True,
    most: int = MOST_NODES,
) -> None:
    """
    :param machine: a machine
    :param path: of the PNG; ".png" is added where there is no suffix
    :param walks: see :func:`graph_of`
    :param is_contracted: chains become one node, see :func:`contracted`
    :param most: nodes that are drawn, those visited most; the title tells how many are left out
    """
    check_installed("analysis", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    graph = graph_of(machine, walks)
    graph, n_left_out = most_visited(contracted(graph) if is_contracted else graph, most)
    places = {node: place * _PITCH for node, place in positions(graph).items()}
    low, high = np.min(list(places.values()), axis=0) - _PITCH / 2, np.max(list(places.values()), axis=0) + _PITCH / 2
    # Room for the title, above arrows that lead back to where they begin
    high[1] += 0.6
    size = np.maximum(high - low, [7.0, 1.5])
    figure = Figure(figsize=tuple(size), dpi=110 * min(1.0, _LONGEST_SIDE / size.max()))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(low[0], low[0] + size[0]), ylim=(high[1] - size[1], high[1]))
    axes.axis("off")
    boxes = {node: _draw_node(axes, data, graph.graph["action_space"], places[node]) for node, data in graph.nodes(data=True)}
    most_taken = max((data["visits"] or 0 for _, _, data in graph.edges(data=True)), default=0)
    has_few = graph.number_of_edges() <= _MOST_LABELS
    for node, then, data in graph.edges(data=True):
        is_labelled = has_few or (data["visits"] or 0) > _OFTEN * most_taken
        ends = (boxes[node], boxes[then]), (places[node], places[then])
        _draw_edge(axes, data, *ends, most_taken, graph.has_edge(then, node), is_labelled)
    left_out = f"; {n_left_out} nodes that are visited less are left out" if n_left_out else ""
    title = f"{machine.n_states} states, {machine.n_symbols} symbols{left_out}. On arrows: how often (by how many symbols)"
    axes.text(low[0] + 0.2, high[1] - 0.22, title, fontsize=9, color="#444444", va="center")
    with written_aside(with_suffix(path, ".png")) as file:
        figure.savefig(file, format="png", facecolor="white")


def color_of(action: np.ndarray | None, space: spaces.Space) -> tuple[float, float, float]:
    """
    :param action: of a node, None for the beginning
    :param space: of the actions
    :return: red, green and blue, 0 to 1, the same for the same action; for a Box from blue to orange, by its first number
    """
    if action is None:
        return (0.35, 0.35, 0.35)
    first = float(np.ravel(action)[0])
    if not isinstance(space, spaces.Box):
        return _rgb(PALETTE[int(first) % len(PALETTE)])
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    part = 2 * (first - low) / (high - low) - 1 if np.isfinite(high - low) else np.tanh(first)
    return tinted(_rgb(PALETTE[1] if part > 0 else PALETTE[0]), 0.15 + 0.85 * abs(float(np.clip(part, -1, 1))))


def tinted(color: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """
    :param color: red, green and blue
    :param share: of it; the rest is white
    :return: the mixture
    """
    red, green, blue = (share * part + 1 - share for part in color)
    return red, green, blue


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _draw_node(axes: Any, data: dict[str, Any], space: spaces.Space, place: np.ndarray) -> Any:
    from matplotlib.patches import FancyBboxPatch

    color = color_of(data["action"], space)
    box = FancyBboxPatch(
        tuple(place - _BOX / 2),
        width=_BOX[0],
        height=_BOX[1],
        boxstyle="round,pad=0,rounding_size=0.1",
        fc=tinted(color, 0.3),
        ec=color,
        lw=1.3,
        zorder=3,
    )
    axes.add_patch(box)
    lines = described(data)
    longest = max(map(len, lines))
    # What is longer is written smaller
    size = min(8.5, 8.5 * 23 / longest)
    axes.text(*place, "\n".join(lines), fontsize=size, ha="center", va="center", color="#111111", linespacing=1.25, zorder=4)
    return box


def _draw_edge(
    axes: Any,
    data: dict[str, Any],
    boxes: tuple[Any, Any],
    places: tuple[np.ndarray, np.ndarray],
    most_taken: int,
    has_opposite: bool,
    is_labelled: bool,
) -> None:
    from matplotlib.patches import FancyArrowPatch

    begin, end = places
    bend = 0.0
    if boxes[0] is boxes[1]:
        # From the top of the box back to it
        begin, end = begin + _BOX * [-0.25, 0.5], end + _BOX * [0.25, 0.5]
        bend = -0.9
    elif has_opposite or abs(end - begin)[0] > 1.5 * _PITCH[0] or abs(end - begin)[0] < 0.5 * _PITCH[0]:
        # Beside its opposite, and beside the boxes in between
        bend = 0.2
    share = (data["visits"] or 0) / max(most_taken, 1)
    is_loop = boxes[0] is boxes[1]
    axes.add_patch(
        FancyArrowPatch(
            tuple(begin),
            tuple(end),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=9,
            lw=0.6 + 2.2 * np.sqrt(share),
            color="#777777",
            patchA=None if is_loop else boxes[0],
            patchB=None if is_loop else boxes[1],
            shrinkA=0,
            shrinkB=1,
            zorder=1,
        )
    )
    if not is_labelled:
        return
    # The middle of the arc
    step = end - begin
    middle = (begin + end) / 2 + 0.5 * bend * np.array([step[1], -step[0]])
    axes.text(
        *middle,
        edge_label(data),
        fontsize=6.5,
        ha="center",
        va="center",
        color="#333333",
        bbox=dict(boxstyle="round,pad=0.1", fc="white", ec="none", alpha=0.85),
        zorder=2,
    )
