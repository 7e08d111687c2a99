"""Where the nodes of a machine's graph go."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_recurrent_offpolicy.analysis.machine import START

if TYPE_CHECKING:
    import networkx as nx

# Edges that lead back, as a part of all, up to which layers are easier to follow than a map of distances
_MOST_BACK = 0.6
# Columns of a row of components that hang together by nothing
_WIDEST_ROW = 12
_SWEEPS = 8


def positions(graph: "nx.DiGraph") -> dict[Any, np.ndarray]:
    """
    Layers by distance from the start, from left to right, where hardly any edge leads back; otherwise Kamada & Kawai 1989.
    Parts that hang together by nothing stand side by side, and below one another.

    :param graph: nodes with "visits"
    :return: of each node, (2,): in columns and rows, the largest row on top; no two nodes are closer than one of each
    """
    import networkx as nx

    parts = sorted(nx.weakly_connected_components(graph), key=lambda part: (START not in part, -len(part)))
    found: dict[Any, np.ndarray] = {}
    left, top, height = 0.0, 0.0, 0.0
    for part in parts:
        component = graph.subgraph(part)
        # In an order that does not depend on how sets are stored
        nodes = sorted(part, key=lambda node: (node != START, -graph.nodes[node]["visits"], str(node)))
        placed = _layered(component, nodes)
        if placed is None:
            placed = _by_distance(component, nodes)
        corner = np.min(list(placed.values()), axis=0)
        width, part_height = np.max(list(placed.values()), axis=0) - corner + 1
        if left > 0 and left + width > _WIDEST_ROW:
            left, top, height = 0.0, top - height, 0.0
        for node, place in placed.items():
            column, row = place - corner
            found[node] = np.array([left + column, top - row])
        left, height = left + width, max(height, part_height)
    return found


def _layered(graph: "nx.DiGraph", nodes: list[Any]) -> dict[Any, np.ndarray] | None:
    """Of one component; None where too many edges lead back."""
    import networkx as nx

    without_loops = nx.DiGraph((node, then) for node, then in graph.edges if node != then)
    layer_of: dict[Hashable, int] = {}
    if len(without_loops) and nx.is_directed_acyclic_graph(without_loops):
        for generation, members in enumerate(nx.topological_generations(without_loops)):
            layer_of.update(dict.fromkeys(members, generation))
    else:
        # What nothing leads to comes first
        for root in sorted(nodes, key=lambda node: (node != START, graph.in_degree(node) > 0)):
            if root not in layer_of:
                for node, distance in nx.single_source_shortest_path_length(graph, root).items():
                    layer_of[node] = min(distance, layer_of.get(node, distance))
    n_back = sum(layer_of[then] <= layer_of[node] for node, then in without_loops.edges)
    if n_back > _MOST_BACK * without_loops.number_of_edges():
        return None
    layers = [[node for node in nodes if layer_of[node] == layer] for layer in range(max(layer_of.values()) + 1)]
    neighbours = nx.Graph(without_loops)
    rows: dict[Any, float] = {node: float(row) for layer in layers for row, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        # Forwards, then backwards: each node to the middle of its neighbours in the layer before
        direction = 1 if sweep % 2 == 0 else -1
        for layer in layers[::direction]:
            wanted = {}
            for node in layer:
                before = [
                    rows[other]
                    for other in neighbours.adj.get(node, ())
                    if direction * layer_of[other] < direction * layer_of[node]
                ]
                wanted[node] = float(np.mean(before)) if before else rows[node]
            rows.update(_spread(wanted))
    places = np.array([[layer_of[node], rows[node]] for node in nodes], dtype=float)
    return dict(zip(nodes, _closed_up(places), strict=True))


def _spread(wanted: dict[Any, float]) -> dict[Any, float]:
    """In the order of the rows that are wanted, at least one row apart, and as a whole where they are wanted."""
    order = sorted(wanted, key=lambda node: wanted[node])
    rows: list[float] = []
    for node in order:
        rows.append(max(wanted[node], rows[-1] + 1) if rows else wanted[node])
    shift = float(np.mean([wanted[node] - row for node, row in zip(order, rows, strict=True)]))
    return {node: row + shift for node, row in zip(order, rows, strict=True)}


def _closed_up(places: np.ndarray) -> np.ndarray:
    """Without bands of columns or rows in which nothing stands."""
    places = places.copy()
    for axis in range(2):
        values, inverse = np.unique(places[:, axis], return_inverse=True)
        places[:, axis] = np.concatenate([[0.0], np.minimum(np.diff(values), 1.0).cumsum()])[inverse]
    return places


def _by_distance(graph: "nx.DiGraph", nodes: list[Any]) -> dict[Any, np.ndarray]:
    import networkx as nx

    # Without weights: visits are no distances
    placed = nx.kamada_kawai_layout(nx.Graph(list(graph.edges)))
    places = np.array([placed[node] for node in nodes])
    edges = [(nodes.index(node), nodes.index(then)) for node, then in graph.edges if node != then]
    lengths = [np.linalg.norm(places[i] - places[j]) for i, j in edges]
    # Room for an arrow and its label
    places *= 1.4 / max(float(np.mean(lengths)), 1e-6)
    if places[0, 0] > places[:, 0].mean():
        # The beginning on the left
        places[:, 0] *= -1
    return dict(zip(nodes, _closed_up(_apart(places)), strict=True))


def _apart(places: np.ndarray, n_rounds: int = 500) -> np.ndarray:
    """
    :param places: (n, 2)
    :param n_rounds: at most
    :return: pushed apart until no two are closer than one column and one row
    """
    places = places.copy()
    n = len(places)
    for _ in range(n_rounds):
        steps = places[:, None] - places[None]
        overlaps = 1.0 - np.abs(steps)
        overlapping = (overlaps > 1e-3).all(axis=-1) & ~np.eye(n, dtype=bool)
        if not overlapping.any():
            break
        for i, j in np.argwhere(np.triu(overlapping)):
            axis = int(overlaps[i, j].argmin())
            push = (overlaps[i, j, axis] / 2 + 1e-3) * (1.0 if steps[i, j, axis] >= 0 else -1.0)
            places[i, axis] += push
            places[j, axis] -= push
    return places
