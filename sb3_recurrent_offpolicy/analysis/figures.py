"""Figures of Plotly, to zoom and to hover over: in a notebook each by itself, together in a page."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_recurrent_offpolicy.analysis.contamination import Contamination
from sb3_recurrent_offpolicy.analysis.machine_drawing import PALETTE
from sb3_recurrent_offpolicy.analysis.memory_use import MemoryUse
from sb3_recurrent_offpolicy.analysis.probing import MEMORY, OBSERVATION, SHUFFLED, STACK, UNTRAINED, Probes
from sb3_recurrent_offpolicy.analysis.recall import RecallDensity

if TYPE_CHECKING:
    import plotly.graph_objects as go

INK, PALE, GRID = "#1f2933", "#8a94a3", "#e6e9ee"


def blank(height: int, **layout: Any) -> "go.Figure":
    """
    :param height: in pixels
    :param layout: what else the layout has
    :return: an empty figure in the style of all
    """
    import plotly.graph_objects as go

    font = dict(family='system-ui, -apple-system, "Segoe UI", Roboto, sans-serif', size=13, color=INK)
    common: dict[str, Any] = dict(
        template="none",
        height=height,
        font=font,
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin=dict(l=64, r=24, t=24, b=48),
        hoverlabel=dict(bgcolor="white", font=font | dict(size=12)),
        legend=dict(orientation="h", x=0, y=1.02, yanchor="bottom", xanchor="left"),
    )
    return go.Figure(layout=common | layout)


def with_grid(figure: "go.Figure") -> "go.Figure":
    """
    :param figure: complete with all its axes
    :return: the same, with quiet axes
    """
    quiet = dict(
        gridcolor=GRID, zerolinecolor=GRID, linecolor=PALE, ticks="outside", tickcolor=PALE, ticklen=4, automargin=True
    )
    figure.update_xaxes(**quiet, title_standoff=8, title_font_size=13)
    figure.update_yaxes(**quiet, title_standoff=8, title_font_size=13)
    return figure


def recall_figure(recall: RecallDensity) -> "go.Figure":
    """
    :param recall: found
    :return: mean shares by lag, and how much lies no further back
    """
    import plotly.graph_objects as go

    shares = recall.by_lag()
    lags = np.arange(len(shares))
    total = np.cumsum(shares) / shares.sum()
    last = max(int(np.argmax(total >= 0.99)), min(10, len(shares) - 1))
    figure = blank(300)
    figure.add_trace(
        go.Bar(x=lags, y=shares, name="this observation", marker_color=PALETTE[0], hovertemplate="%{x} steps ago: %{y:.1%}")
    )
    figure.add_trace(
        go.Scatter(
            x=lags,
            y=total,
            name="this and all later ones",
            mode="lines",
            line=dict(color=PALETTE[4], width=2),
            hovertemplate="up to %{x} steps ago: %{y:.1%}",
        )
    )
    with_grid(figure)
    figure.update_xaxes(title_text="steps ago", range=[-0.6, last + 0.6])
    return figure.update_yaxes(title_text="share of the gradient", range=[0, 1.03], tickformat=".0%")


def probes_figure(probes: Probes) -> "go.Figure":
    """
    :param probes: found
    :return: how well each quantity is read from the memory and from the controls, at each step
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    styles = {
        MEMORY: (PALETTE[0], "solid", 3.0),
        UNTRAINED: (PALETTE[1], "dash", 2.0),
        OBSERVATION: (PALETTE[2], "solid", 1.5),
        STACK: (PALETTE[3], "dashdot", 1.5),
        SHUFFLED: (PALE, "dot", 1.5),
    }
    quantities = list(probes.decoded)
    heights = 230 * len(quantities) + 100
    titles = [f"<b>{quantity}</b>" for quantity in quantities]
    figure = make_subplots(
        len(quantities),
        1,
        vertical_spacing=64 / heights,
        subplot_titles=titles,
        figure=blank(heights, margin=dict(t=76, r=24, l=64, b=48)),
    )
    for row, quantity in enumerate(quantities, start=1):
        is_class = False
        for source in probes.decoded[quantity]:
            best = probes.best(quantity, source)
            is_class = best.is_class
            # Few episodes make a score that means little; where there are only few, it is all there is
            scores = best.by_step(least=max(2, min(10, int((best.steps == 0).sum()) // 2)))
            color, dash, width = styles[source]
            figure.add_trace(
                go.Scatter(
                    x=np.arange(len(scores)),
                    y=scores,
                    name=source,
                    legendgroup=source,
                    showlegend=row == 1,
                    mode="lines+markers" if len(scores) <= 60 else "lines",
                    marker=dict(size=4),
                    line=dict(color=color, dash=dash, width=width),
                    hovertemplate="step %{x}: %{y:.2f}",
                ),
                row,
                1,
            )
        figure.update_yaxes(
            title_text="accuracy" if is_class else "R²", range=[-0.03 if is_class else -0.35, 1.06], row=row, col=1
        )
    with_grid(figure)
    figure.update_annotations(x=0, xanchor="left", font=dict(size=13))
    figure.update_xaxes(title_text="step", row=len(quantities), col=1)
    return figure.update_layout(legend=dict(y=1, yref="container", yanchor="top"))


def use_figure(use: MemoryUse) -> "go.Figure":
    """
    :param use: found
    :return: the return of each way to remember, with its 95 % interval
    """
    import plotly.graph_objects as go

    found = use.intervals()
    names = list(found)
    means = np.array([found[name].mean for name in names])
    colors = {"as it is": PALETTE[0], "imitator without memory": PALETTE[4]}
    figure = blank(60 + 28 * len(names), showlegend=False)
    figure.add_trace(
        go.Scatter(
            x=means,
            y=names,
            mode="markers",
            marker=dict(size=10, color=[colors.get(name, PALETTE[5] if name.startswith("last") else PALE) for name in names]),
            error_x=dict(
                type="data",
                array=[found[name].high - found[name].mean for name in names],
                arrayminus=[found[name].mean - found[name].low for name in names],
                color=PALE,
                thickness=1.5,
                width=5,
            ),
            customdata=[str(found[name]) for name in names],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
        )
    )
    figure.add_vline(x=found["as it is"].mean, line=dict(color=PALETTE[0], width=1, dash="dot"))
    with_grid(figure)
    figure.update_xaxes(title_text="return, mean and 95 % interval")
    return figure.update_yaxes(autorange="reversed", ticks="", ticklabelstandoff=8)


def contamination_figure(odd: Contamination, is_discrete: bool) -> "go.Figure":
    """
    :param odd: found
    :param is_discrete: actions are
    :return: how far actions are from what they would have been, by steps since the odd observation
    """
    import plotly.graph_objects as go

    lags = np.arange(len(odd.deviation))
    figure = blank(280, showlegend=False)
    figure.add_trace(
        go.Scatter(
            x=lags,
            y=odd.deviation,
            mode="lines+markers" if len(lags) <= 60 else "lines",
            fill="tozeroy",
            fillcolor="rgba(213, 94, 0, 0.12)",
            line=dict(color=PALETTE[4], width=2),
            marker=dict(size=5),
            hovertemplate="%{x} steps later: %{y:.1%}<extra></extra>",
        )
    )
    with_grid(figure)
    figure.update_xaxes(title_text=f"steps since the odd observation at step {odd.at}", range=[-0.3, len(lags) - 0.7])
    title = "actions that differ" if is_discrete else "deviation, part of the range"
    return figure.update_yaxes(title_text=title, tickformat=".0%", rangemode="tozero")
