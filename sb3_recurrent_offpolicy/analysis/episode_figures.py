"""Figures of an episode, step by step, and of where the memory of many episodes goes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_recurrent_offpolicy.analysis.figures import INK, PALE, blank, with_grid
from sb3_recurrent_offpolicy.analysis.machine_drawing import PALETTE
from sb3_recurrent_offpolicy.analysis.opened import flat
from sb3_recurrent_offpolicy.analysis.playing import Episode

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Numbers of an observation or an action that are drawn as lines; more of them are a heat map
MOST_LINES = 8
# Rows of a heat map, those that change most
MOST_ROWS = 256
# Of a portrait; SVG becomes slow with more
_MOST_POINTS = 3000
_MOST_PATHS = 12
# Pixels of a row of lines, and of what lies beside the rows
_LINES, _MARGINS = 100, 64
# By which a script finds the traces of a portrait that show an episode and its current step
PATH, CURRENT = "path", "current step"


def names_of(observations: Any) -> list[str]:
    """
    :param observations: of an episode, (T, *obs), or a dict of them
    :return: a name for each number of an observation, in the order of ``flat``
    """
    parts = observations if isinstance(observations, dict) else {"o": observations}
    sizes = {key: int(np.prod(array.shape[1:])) for key, array in parts.items()}
    return [f"{key}[{i}]" if size > 1 else key for key, size in sizes.items() for i in range(size)]


def row_order(rows: np.ndarray) -> np.ndarray:
    """
    :param rows: (M, T)
    :return: an order in which those stand together that change together: leaves of a tree of mean distances, (M,)
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    if rows.shape[0] < 3 or rows.shape[1] < 2:
        return np.arange(rows.shape[0])
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return leaves_list(linkage(rows, method="average", optimal_ordering=True))


def episode_figure(episode: Episode) -> "go.Figure":
    """
    :param episode: recorded
    :return: observations, actions, rewards and hidden quantities above a heat map of the memory, and a marker of the current
        step: the shapes of the layout. Observations of many numbers are a heat map, too; those of more than 256, images
        mostly, are left out
    """
    from plotly.subplots import make_subplots

    n_steps = len(episode.rewards)
    seen = flat(episode.observations)
    actions = episode.actions.reshape(n_steps, -1)
    action_names = ["action"] if actions.shape[1] == 1 else [f"a[{i}]" for i in range(actions.shape[1])]
    groups = {
        "observation": dict(zip(names_of(episode.observations), seen.T, strict=True)),
        "action": dict(zip(action_names, actions.T, strict=True)),
        "reward": {"reward": episode.rewards},
        "hidden": dict(episode.quantities),
    }
    groups = {title: lines for title, lines in groups.items() if 0 < len(lines) <= MOST_ROWS}
    units = {f"unit {i}": values for i, values in enumerate(episode.memories.T)}
    heights = [_LINES if len(lines) <= MOST_LINES else _heat_height(len(lines)) for lines in groups.values()]
    heights.append(_heat_height(len(units)))
    figure = make_subplots(
        len(heights),
        1,
        shared_xaxes=True,
        vertical_spacing=16 / (sum(heights) + _MARGINS),
        row_heights=heights,
        # Long enough on the right for the names of lines
        figure=blank(sum(heights) + _MARGINS, margin=dict(l=64, r=96, t=12, b=48)),
    )
    for color, width in (("white", 4), (INK, 2)):
        # Visible on every colour
        figure.add_shape(type="line", xref="x", yref="paper", x0=0, x1=0, y0=0, y1=1, line=dict(color=color, width=width))
    with_grid(figure)
    for row, (title, lines) in enumerate(groups.items(), start=1):
        if len(lines) <= MOST_LINES:
            _add_lines(figure, row, title, lines)
        else:
            _add_heat(figure, row, title, lines)
    _add_heat(figure, len(heights), "memory", units)
    figure.update_xaxes(range=[-0.5, n_steps - 0.5], showgrid=False)
    figure.update_xaxes(title_text="step", row=len(heights), col=1)
    return figure


def _heat_height(n_rows: int) -> int:
    return int(np.clip(6 * n_rows, 140, 380))


def _add_lines(figure: "go.Figure", row: int, title: str, lines: dict[str, np.ndarray]) -> None:
    import plotly.graph_objects as go

    legend = f"legend{row + 1}"
    axis = figure.layout[f"yaxis{row}" if row > 1 else "yaxis"]
    for i, (name, values) in enumerate(lines.items()):
        is_number = np.issubdtype(values.dtype, np.number) or values.dtype == bool
        # Actions and rewards belong to the time until the next step
        shape = "hv" if title in ("action", "reward") else "linear"
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(values)),
                # Labels are categories
                y=values.astype(float) if is_number else values.astype(str),
                name=name,
                mode="lines+markers" if len(values) <= 60 else "lines",
                line=dict(color=PALETTE[i % len(PALETTE)], width=1.6, shape=shape),
                marker=dict(size=4),
                legend=legend,
                showlegend=len(lines) > 1,
                hovertemplate="step %{x}: %{y:.4~g}" if is_number else "step %{x}: %{y}",
            ),
            row,
            1,
        )
        if np.issubdtype(values.dtype, np.integer) and np.ptp(values) <= 4:
            axis.dtick = 1
    axis.update(title_text=title if len(lines) > 1 or title == "observation" else next(iter(lines)), nticks=4)
    figure.layout[legend] = dict(x=1.005, y=axis.domain[1], yanchor="top", xanchor="left", font=dict(size=11))


def _add_heat(figure: "go.Figure", row: int, title: str, lines: dict[str, np.ndarray]) -> None:
    import plotly.graph_objects as go

    names, rows = list(lines), np.array(list(lines.values()), dtype=float)
    chosen = np.sort(np.argsort(-rows.std(axis=1), kind="stable")[:MOST_ROWS])
    chosen = chosen[row_order(rows[chosen])]
    reach = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-9)
    axis = figure.layout[f"yaxis{row}" if row > 1 else "yaxis"]
    middle, length = (axis.domain[0] + axis.domain[1]) / 2, axis.domain[1] - axis.domain[0]
    figure.add_trace(
        go.Heatmap(
            # A byte each keeps the page small
            z=np.rint(100 * rows / reach).astype(np.int8)[chosen],
            x=np.arange(rows.shape[1]),
            y=[names[i] for i in chosen],
            colorscale="RdBu",
            reversescale=True,
            zmin=-100,
            zmax=100,
            hovertemplate="step %{x}, %{y}: %{z} % of its largest",
            name=title,
            colorbar=dict(
                title=dict(text="% of largest", font=dict(size=11)),
                len=length,
                y=middle,
                x=1.005,
                thickness=10,
                tickvals=[-100, 0, 100],
                outlinewidth=0,
            ),
        ),
        row,
        1,
    )
    count = f"{len(chosen)} of {len(rows)}" if len(chosen) < len(rows) else f"{len(rows)}"
    # "units" of a memory, "numbers" of an observation
    noun = "units" if title == "memory" else "numbers"
    axis.update(title_text=f"{title}, {count} {noun}", showticklabels=False, ticks="", showgrid=False, type="category")


def portrait_figure(episodes: Sequence[Episode], shown: Episode | None = None, seed: int = 0) -> "go.Figure":
    """
    :param episodes: whose memories are projected on their two main directions
    :param shown: one whose path is drawn, with a point for the current step whose ``meta`` is ``CURRENT``; None for none
    :param seed: of the points that are drawn where there are too many
    :return: a phase portrait, coloured by time, by action or by a quantity, as its buttons say
    """
    import plotly.graph_objects as go

    everything = np.concatenate([episode.memories for episode in episodes])
    mean = everything.mean(axis=0)
    # The directions are those of the covariance, which is small where episodes are long
    values, vectors = np.linalg.eigh(np.cov(everything.T).reshape(len(mean), len(mean)))
    directions = vectors[:, ::-1][:, :2]
    parts = np.pad(values[::-1], (0, 1))[:2] / max(values.sum(), 1e-12)

    def projected(memories: np.ndarray) -> np.ndarray:
        points = (memories - mean) @ directions
        # Half the size of a page's numbers
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))).astype(np.float32)

    colors = {"step": np.concatenate([np.arange(len(episode.rewards)) for episode in episodes]).astype(np.float32)}
    for name in episodes[0].quantities:
        colors[name] = _numbers(np.concatenate([episode.quantities[name] for episode in episodes]))
    for i in range(episodes[0].actions.reshape(len(episodes[0].actions), -1).shape[1]):
        taken = np.concatenate([episode.actions.reshape(len(episode.actions), -1)[:, i] for episode in episodes])
        colors[f"action {i}" if i > 0 else "action"] = taken.astype(np.float32)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(everything))[:_MOST_POINTS])
    points = projected(everything)[chosen]
    figure = blank(540, showlegend=False, margin=dict(l=64, r=24, t=64, b=48))
    paths = [
        np.vstack([projected(episode.memories), np.full((1, 2), np.nan, np.float32)]) for episode in episodes[:_MOST_PATHS]
    ]
    path = np.concatenate(paths)
    figure.add_trace(
        go.Scatter(
            x=path[:, 0], y=path[:, 1], mode="lines", line=dict(color="#c9d0d9", width=1), hoverinfo="skip", name="paths"
        )
    )
    first = next(iter(episodes[0].quantities), "step")
    bar = dict(title=dict(text=first, side="right"), thickness=12, outlinewidth=0)
    marker = dict(size=6, color=colors[first][chosen], colorscale="Viridis", colorbar=bar, line=dict(width=0), opacity=0.8)
    hover = "step %{customdata}<extra></extra>"
    figure.add_trace(
        go.Scatter(
            x=points[:, 0],
            y=points[:, 1],
            mode="markers",
            marker=marker,
            customdata=colors["step"][chosen],
            hovertemplate=hover,
        )
    )
    if shown is not None:
        # Lists: a script reads them, and arrays are packed
        x, y = projected(shown.memories).T.tolist()
        line = dict(color=PALETTE[4], width=1.5)
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name="this episode", meta=PATH))
        marker = dict(size=15, color=PALETTE[4], line=dict(color="white", width=2))
        figure.add_trace(
            go.Scatter(x=x[:1], y=y[:1], mode="markers", marker=marker, hoverinfo="skip", name=CURRENT, meta=CURRENT)
        )
    with_grid(figure)
    figure.update_xaxes(title_text=f"first principal component ({parts[0]:.0%} of the variance)")
    figure.update_yaxes(title_text=f"second ({parts[1]:.0%})")
    buttons = [
        dict(
            label=name,
            method="restyle",
            args=[{"marker.color": [values[chosen]], "marker.colorbar.title.text": name}, [1]],
        )
        for name, values in colors.items()
    ]
    menu = dict(
        type="buttons",
        direction="right",
        buttons=buttons,
        x=0,
        y=1.02,
        xanchor="left",
        yanchor="bottom",
        active=list(colors).index(first),
        pad=dict(l=0, b=6),
        bgcolor="white",
        bordercolor=PALE,
        font=dict(size=12),
        showactive=True,
    )
    return figure.update_layout(updatemenus=[menu])


def _numbers(values: np.ndarray) -> np.ndarray:
    """To colour by: labels by their place in the alphabet."""
    if np.issubdtype(values.dtype, np.number) or values.dtype == bool:
        return values.astype(np.float32)
    return np.unique(values, return_inverse=True)[1].astype(np.float32)
