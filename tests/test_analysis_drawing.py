"""Graphs and pictures of machines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pydot
import pytest
from gymnasium import spaces
from matplotlib.image import imread

from sb3_recurrent_offpolicy.analysis import MooreMachine
from sb3_recurrent_offpolicy.analysis.extraction import Walk
from sb3_recurrent_offpolicy.analysis.machine import START
from sb3_recurrent_offpolicy.analysis.machine_drawing import contracted, draw_machine, graph_of, most_visited, write_dot
from sb3_recurrent_offpolicy.analysis.machine_layout import positions


def machine_of(table: dict[tuple[int, int], int], actions: list[Any], visits: list[int], space: spaces.Space) -> MooreMachine:
    """A machine that was written down by hand."""
    n_states = len(actions)
    quantized: Any = SimpleNamespace(observation_space=spaces.Box(-1, 1, (2,)), action_space=space)
    codes = np.arange(n_states, dtype=np.int8)[:, None]
    observations = np.column_stack([np.arange(n_states), np.zeros(n_states)]).astype(float)
    symbols = codes[: 1 + max(symbol for _, symbol in table)]
    return MooreMachine(
        quantized, codes, symbols, np.zeros(n_states, int), np.array(actions), table, np.array(visits), observations
    )


def branching(space: spaces.Space, actions: list[Any]) -> tuple[MooreMachine, list[Walk]]:
    """From the beginning either 1, 2, 3 or 4, 5, the last of each time and again; nobody has ever gone from 5 to 1."""
    table = {(0, 0): 1, (1, 0): 2, (2, 0): 3, (3, 0): 3, (0, 1): 4, (4, 0): 5, (5, 0): 5, (5, 1): 1}
    walks: list[Walk] = [[(0, 1), (0, 2), (0, 3), (0, 3)], [(1, 4), (0, 5), (0, 5)], [(0, 1), (0, 2)]]
    return machine_of(table, actions, [3, 2, 2, 2, 1, 2], space), walks


@pytest.fixture
def machine() -> tuple[MooreMachine, list[Walk]]:
    return branching(spaces.Discrete(3), [0, 1, 1, 1, 2, 2])


def paths(graph: nx.DiGraph) -> set[tuple[int, ...]]:
    """Actions along all ways of at most six steps from the beginning."""

    def of(data: dict[str, Any]) -> tuple[int, ...]:
        return () if data["action"] is None else (int(data["action"]),) * len(data["states"])

    found: set[tuple[int, ...]] = set()
    under_way: list[tuple[int, tuple[int, ...]]] = [(START, ())]
    while under_way:
        node, actions = under_way.pop()
        actions = (*actions, *of(graph.nodes[node]))
        found |= {actions[:n] for n in range(min(len(actions), 6) + 1)}
        if len(actions) < 6:
            under_way += [(then, actions) for then in graph.successors(node)]
    return found


def test_graph_has_what_was_walked(machine: tuple[MooreMachine, list[Walk]]) -> None:
    graph = graph_of(*machine)
    assert dict(graph.edges) == {
        (0, 1): {"symbols": (0,), "visits": 2},
        (1, 2): {"symbols": (0,), "visits": 2},
        (2, 3): {"symbols": (0,), "visits": 1},
        (3, 3): {"symbols": (0,), "visits": 1},
        (0, 4): {"symbols": (1,), "visits": 1},
        (4, 5): {"symbols": (0,), "visits": 1},
        (5, 5): {"symbols": (0,), "visits": 1},
    }
    everything = graph_of(machine[0])
    assert everything.edges[5, 1] == {"symbols": (1,), "visits": None} and len(everything.edges) == 8


def test_contraction_keeps_visits_and_what_is_done(machine: tuple[MooreMachine, list[Walk]]) -> None:
    graph = graph_of(*machine)
    small = contracted(graph)
    # 3 and 5 lead to themselves, which is a decision: how often
    assert [small.nodes[node]["states"] for node in small] == [(0,), (1, 2), (3,), (4,), (5,)]
    assert small.nodes[1]["visits"] == 4 and small.nodes[1]["observation"].tolist() == [1.5, 0.0]
    assert small.nodes[1]["first"].tolist() == [1.0, 0.0] and small.nodes[1]["last"].tolist() == [2.0, 0.0]
    for name in ("visits", "states"):
        everything = [
            sum((data[name] for _, data in each.nodes(data=True)), type(small.nodes[0][name])()) for each in (graph, small)
        ]
        assert sorted(np.ravel(everything[0])) == sorted(np.ravel(everything[1]))
    assert paths(graph) == paths(small)


def test_contraction_stops_where_ways_meet(machine: tuple[MooreMachine, list[Walk]]) -> None:
    """From 5 one comes to 2, too: what happens there depends on where one comes from."""
    machine[0].table[5, 1] = 2
    assert [data["states"] for _, data in contracted(graph_of(machine[0])).nodes(data=True)] == [
        (0,),
        (1,),
        (2,),
        (3,),
        (4,),
        (5,),
    ]


@pytest.mark.parametrize(("step", "chain"), [(0.09, (1, 2)), (0.11, (1,))])
def test_actions_that_hardly_differ_are_alike(step: float, chain: tuple[int, ...]) -> None:
    """5 % of a range of 2 is 0.1."""
    actions = [[0.0], [0.2], [0.2 + step], [-1.0], [0.0], [1.0]]
    machine, walks = branching(spaces.Box(-1, 1, (1,)), actions)
    assert contracted(graph_of(machine, walks)).nodes[1]["states"] == chain


def test_dot_is_read_by_pydot(machine: tuple[MooreMachine, list[Walk]], tmp_path: Path) -> None:
    write_dot(machine[0], tmp_path / "machine", machine[1])
    graphs: Any = pydot.graph_from_dot_file(str(tmp_path / "machine.dot"))
    (graph,) = graphs
    labels = {node.get_name(): node.get_label() for node in graph.get_nodes()}
    assert labels["1"] == '"action 1\\n(1, 0)\\n→ (2, 0)\\n2 steps, 4 visits"' and labels["0"] == '"start\\n3 episodes"'
    edges = {(edge.get_source(), edge.get_destination()): edge.get_label() for edge in graph.get_edges()}
    assert edges["0", "1"] == '"2×"' and len(edges) == 6  # noqa: RUF001


def grid(n_states: int, seed: int) -> MooreMachine:
    """Of random transitions."""
    rng = np.random.default_rng(seed)
    table = {(state, symbol): int(rng.integers(1, n_states)) for state in range(n_states) for symbol in range(2)}
    table |= {(state, 0): state + 1 for state in range(n_states - 1)}
    return machine_of(
        table, rng.integers(3, size=n_states).tolist(), rng.integers(1, 99, size=n_states).tolist(), spaces.Discrete(3)
    )


@pytest.mark.parametrize("n_states", [2, 5, 30])
def test_no_node_stands_on_another(n_states: int) -> None:
    graph = graph_of(grid(n_states, seed=n_states))
    places = np.array(list(positions(graph).values()))
    distances = np.abs(places[:, None] - places[None]).max(axis=-1) + 2 * np.eye(n_states)
    assert len(places) == n_states and distances.min() > 0.99


@pytest.mark.parametrize(("n_states", "n_left_out"), [(5, 0), (90, 30)])
def test_picture_of_a_machine(n_states: int, n_left_out: int, tmp_path: Path) -> None:
    machine = grid(n_states, seed=1)
    kept, found = most_visited(graph_of(machine), 60)
    assert found == n_left_out and START in kept
    if n_left_out:
        fewest = min(data["visits"] for node, data in kept.nodes(data=True) if node != START)
        assert sum(machine.visits > fewest) < 60
    draw_machine(machine, tmp_path / "machine", is_contracted=False)
    height, width, _ = imread(tmp_path / "machine.png").shape
    assert 100 < height < 11_001 and 400 < width < 11_001
