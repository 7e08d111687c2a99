"""A machine as a figure of Plotly, whose nodes tell more when one points at them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_recurrent_offpolicy.analysis.extraction import Walk
from sb3_recurrent_offpolicy.analysis.figures import INK, blank
from sb3_recurrent_offpolicy.analysis.machine import MooreMachine
from sb3_recurrent_offpolicy.analysis.machine_drawing import (
    MOST_NODES,
    color_of,
    contracted,
    edge_label,
    graph_of,
    most_visited,
    rounded,
    tinted,
)
from sb3_recurrent_offpolicy.analysis.machine_layout import positions

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go

# Pixels from one row to the next, and of the figure's margins
_ROW, _MARGINS = 84, 80
# A page has room for so many columns before they crowd; fewer stand on the left, no wider apart
_COLUMNS = 8
# Pixels of a column of such a page
_COLUMN = 1000 / _COLUMNS
_ARC_POINTS = 16


def machine_figure(
    machine: MooreMachine, walks: Sequence[Walk] | None = None, is_contracted: bool = True, most: int = MOST_NODES
) -> "go.Figure":
    """
    :param machine: a machine
    :param walks: see :func:`~sb3_recurrent_offpolicy.analysis.machine_drawing.graph_of`
    :param is_contracted: chains become one node
    :param most: nodes that are drawn, those visited most
    :return: nodes coloured by action, with the action and, of a chain, the number of steps in them
    """
    import plotly.graph_objects as go

    graph = graph_of(machine, walks)
    graph, _ = most_visited(contracted(graph) if is_contracted else graph, most)
    places = positions(graph)
    corners = np.array(list(places.values()))
    n_rows = np.ptp(corners[:, 1]) + 1
    figure = blank(int(_MARGINS + _ROW * max(n_rows, 2)), margin=dict(l=8, r=8, t=40, b=8))
    n_columns = max(np.ptp(corners[:, 0]) + 1, _COLUMNS)
    _add_edges(figure, graph, places, n_columns / _COLUMNS)
    space: Any = graph.graph["action_space"]
    groups: dict[str, list[Any]] = {}
    for node, data in graph.nodes(data=True):
        name = "start" if data["action"] is None else f"action {rounded(data['action'])}"
        groups.setdefault(name if isinstance(space, spaces.Discrete) or name == "start" else "actions", []).append(node)
    most_visits = max(data["visits"] for _, data in graph.nodes(data=True))
    for name in sorted(groups, key=lambda name: (name != "start", name)):
        nodes = [graph.nodes[node] for node in groups[name]]
        colors = [color_of(data["action"], space) for data in nodes]
        place = np.array([places[node] for node in groups[name]])
        figure.add_trace(
            go.Scatter(
                x=place[:, 0],
                y=place[:, 1],
                name=name,
                mode="markers+text",
                marker=dict(
                    size=[_size(data, most_visits) for data in nodes],
                    color=[_css(tinted(color, 0.35)) for color in colors],
                    line=dict(color=[_css(color) for color in colors], width=1.5),
                    opacity=1,
                ),
                text=[_inside(data) for data in nodes],
                textfont=dict(size=11, color=INK),
                customdata=[_told(data) for data in nodes],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    hidden: dict[str, Any] = dict(visible=False, fixedrange=False)
    figure.update_xaxes(**hidden, range=[corners[:, 0].min() - 0.5, corners[:, 0].min() - 0.5 + n_columns])
    figure.update_yaxes(**hidden, range=[corners[:, 1].min() - 0.6, corners[:, 1].max() + 0.7])
    return figure.update_layout(showlegend=len(groups) > 2, legend=dict(y=1.0, itemsizing="constant"), hovermode="closest")


def _css(color: tuple[float, float, float]) -> str:
    return "rgb({}, {}, {})".format(*(round(255 * part) for part in color))


def _inside(data: dict[str, Any]) -> str:
    if data["action"] is None:
        return "start"
    n_steps = len(data["states"])
    return rounded(data["action"], most=2) + (f"<br>{n_steps} steps" if n_steps > 1 else "")


def _told(data: dict[str, Any]) -> str:
    if data["action"] is None:
        return f"<b>start</b><br>{data['visits']} episodes begin here"
    n_steps = len(data["states"])
    lines = [f"<b>action {rounded(data['action'])}</b>", f"mean observation {rounded(data['observation'], most=12)}"]
    if n_steps > 1:
        lines += [f"{n_steps} steps: from {rounded(data['first'])}", f"to {rounded(data['last'])}"]
    numbers = ", ".join(map(str, data["states"][:10])) + (", …" if n_steps > 10 else "")
    return "<br>".join([*lines, f"{data['visits']} visits, state{'s' * (n_steps > 1)} {numbers}"])


def _size(data: dict[str, Any], most_visits: int) -> float:
    """Pixels across."""
    # Two lines of text need room
    least = 44 if len(data["states"]) > 1 else 30
    return max(least, 30 + 22 * np.sqrt(data["visits"] / most_visits))


def _add_edges(figure: "go.Figure", graph: "nx.DiGraph", places: dict[Any, np.ndarray], crowding: float) -> None:
    """In three widths, with arrowheads beyond their middle, and a point to hover over there."""
    import plotly.graph_objects as go

    edges = list(graph.edges(data=True))
    if not edges:
        return
    most = max(data["visits"] or 0 for *_, data in edges)
    widths = [1 + round(2 * ((data["visits"] or 0) / max(most, 1)) ** 0.5) for *_, data in edges]
    arcs = [_arc(places[node], places[then], graph.has_edge(then, node), crowding) for node, then, _ in edges]
    style: dict[str, Any] = dict(showlegend=False, hoverinfo="skip")
    gap = [[np.nan] * 2]
    for width in sorted(set(widths)):
        x, y = np.concatenate([[*arc, *gap] for arc, of_arc in zip(arcs, widths, strict=True) if of_arc == width]).T
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="lines", line=dict(color="#9aa4b1", width=width), name="transitions", **style)
        )
    # A head takes its direction from the point before it, which has no size
    # Of a loop, on the way back
    parts = [0.8 if node == then else 0.6 for node, then, _ in edges]
    heads = [arc[[at - 1, at]] for arc, part in zip(arcs, parts, strict=True) for at in [int(part * len(arc))]]
    x, y = np.concatenate([[*head, *gap] for head in heads]).T
    sizes = np.concatenate([[0, 7 + 1.5 * width, 0] for width in widths])
    marker = dict(symbol="arrow", angleref="previous", size=sizes, color="#6b7683", opacity=1, line=dict(width=0))
    figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker, name="directions", **style))
    told = [f"taken {edge_label(data)}" if data["visits"] is not None else edge_label(data) for *_, data in edges]
    figure.add_trace(
        go.Scatter(
            x=[head[1, 0] for head in heads],
            y=[head[1, 1] for head in heads],
            mode="markers",
            marker=dict(size=14, color="rgba(0, 0, 0, 0)"),
            customdata=told,
            hovertemplate="%{customdata}<extra></extra>",
            showlegend=False,
            name="times",
        )
    )


def _arc(begin: np.ndarray, end: np.ndarray, has_opposite: bool, crowding: float) -> np.ndarray:
    """Points from one place to another, beside the way back and beside what lies between."""
    if (begin == end).all():
        # A loop above the node, round on a page of usual width
        angles = np.linspace(-0.3 * np.pi, 1.3 * np.pi, _ARC_POINTS)
        radii = 15 / np.array([_COLUMN / crowding, _ROW])
        return begin + [0, 32 / _ROW] + np.column_stack([np.cos(angles), np.sin(angles)]) * radii
    step = end - begin
    bend = 0.0
    if has_opposite or abs(step[0]) > 1.5 or abs(step[0]) < 0.5:
        bend = 0.15
    control = (begin + end) / 2 + bend * np.array([step[1], -step[0]])
    t = np.linspace(0, 1, _ARC_POINTS)[:, None]
    return (1 - t) ** 2 * begin + 2 * t * (1 - t) * control + t**2 * end
