"""All findings on one page: a single HTML file that asks nothing of the network."""

import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sb3_recurrent_offpolicy.analysis.episode_figures import (
    CURRENT,
    MOST_ROWS,
    PATH,
    episode_figure,
    names_of,
    portrait_figure,
)
from sb3_recurrent_offpolicy.analysis.figures import contamination_figure, probes_figure, recall_figure, use_figure
from sb3_recurrent_offpolicy.analysis.findings import LEARNED, MINIMIZED, SEEN, Findings
from sb3_recurrent_offpolicy.analysis.machine_drawing import MOST_NODES, contracted, graph_of
from sb3_recurrent_offpolicy.analysis.machine_figure import machine_figure
from sb3_recurrent_offpolicy.analysis.memory_use import MemoryUse
from sb3_recurrent_offpolicy.analysis.opened import flat
from sb3_recurrent_offpolicy.analysis.statistics import Interval, interval
from sb3_recurrent_offpolicy.checks import check_installed
from sb3_recurrent_offpolicy.files import with_suffix, written_aside

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Modules of the extra
NEEDED = ("plotly", "networkx", "sklearn", "aalpy")

_FOLDER = Path(__file__).parent
# Numbers of an observation that are told beside the slider
_MOST_VALUES = 12
# Part of what the memory is worth, below which machines are no picture of the policy
_ENOUGH_KEPT = 0.9
_ABOUT_MACHINES = {
    SEEN: "Read it from the start along the arrows: each node is a state with its action and colour, larger where it is "
    "visited more. Point at it to see the mean observation, or at an arrow to see how often it is taken. Chains in which "
    "nothing is decided are one node.",
    MINIMIZED: "The smallest machine that does the same on every sequence of symbols. Arrows that were never taken are left "
    "out.",
    LEARNED: "A small machine that does the same on everything that was seen; elsewhere it may do anything.",
}


class _Section(NamedTuple):
    name: str
    """In links"""
    title: str
    html: str


def write_page(path: str | Path, findings: Findings) -> None:
    """
    Write one HTML file, about 5 MB, that opens without a network.

    :param path: of the file; ".html" is added where there is no suffix
    :param findings: of all tools, from :func:`~sb3_recurrent_offpolicy.analysis.findings.findings_of`
    :raises ImportError: if the extra is missing
    """
    check_installed("analysis", *NEEDED)
    with written_aside(with_suffix(path, ".html")) as file:
        file.write(page(findings).encode())


def page(findings: Findings) -> str:
    """
    :param findings: of all tools
    :return: the HTML
    """
    from plotly.offline import get_plotlyjs

    figures: dict[str, go.Figure] = {}
    sections = [
        _use_section(findings, figures),
        _episode_section(findings, figures),
        _recall_section(findings, figures),
        _odd_section(findings, figures),
        _probes_section(findings, figures),
        _machine_section(findings, figures),
    ]
    present = [section for section in sections if section is not None]
    links = "\n".join(f'<a href="#{section.name}">{escape(section.title)}</a>' for section in present)
    bodies = "\n".join(
        f'<section id="{section.name}" aria-labelledby="{section.name}-title"><h2 id="{section.name}-title">'
        f"{escape(section.title)}</h2>\n{section.html}</section>"
        for section in present
    )
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in findings.remarks)
    specs = ", ".join(f"{json.dumps(name)}: {figure.to_json()}" for name, figure in figures.items())
    facts = f"{findings.algorithm} on {findings.task}; every tool has played {findings.n_episodes} episodes"
    if findings.recall is not None:
        facts += f", the recall density {len(findings.recall.episodes)}"
    # The policy of content keeps the browser from asking the network, whatever a library would like
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;
 form-action 'none'; base-uri 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(findings.title)}</title>
<style>
{(_FOLDER / "page.css").read_text()}</style>
</head>
<body>
<main>
<h1>{escape(findings.title)}</h1>
<p class="facts">{escape(facts)}.</p>
<p class="verdict" id="verdict">{escape(verdict(findings.use))}</p>
<nav aria-label="Contents">
{links}
</nav>
{bodies}
<footer>{remarks}<p>Every figure can be zoomed by dragging; a double click shows all of it again.</p></footer>
</main>
<script>{get_plotlyjs()}</script>
<script type="application/json" id="figures-data">{_in_script("{" + specs + "}")}</script>
<script type="application/json" id="episode-data">{_in_script(json.dumps(_told_by_step(findings)))}</script>
<script>
{(_FOLDER / "page.js").read_text()}</script>
</body>
</html>
"""


def _in_script(text: str) -> str:
    """JSON that ends no script element early."""
    return text.replace("<", "\\u003c")


def verdict(use: MemoryUse) -> str:
    """
    :param use: found
    :return: what it means, in words
    """
    full, zeroed, imitator = (f"{use.returns[name].mean():.4g}" for name in ("as it is", "zeroed", "imitator without memory"))
    if not use.uses_memory:
        return (
            f"The policy does not use its memory: it gets {full} as it is, and {zeroed} with its memory zeroed at every step."
        )
    need = f"the task needs one: a copy that has learned to do without gets {imitator}"
    if not use.needs_memory:
        need = f"it could do without: a copy that has learned to do so gets {imitator}"
    suffices = "More steps back are needed than were tried"
    if use.smallest_memory is not None:
        steps = "step before the current one suffices"
        if use.smallest_memory > 1:
            steps = f"{use.smallest_memory} steps before the current one suffice"
        suffices = f"The last {steps}"
    return (
        f"The policy uses its memory: it gets {full} as it is, and {zeroed} with its memory zeroed at every step. "
        f"{need[0].upper()}{need[1:]}. {suffices}."
    )


def _figure(name: str, figure: "go.Figure", caption: str, figures: dict[str, "go.Figure"]) -> str:
    """Room for a figure, which the script draws."""
    figures[name] = figure
    return (
        f'<figure><figcaption id="about-{name}">{escape(caption)}</figcaption><div class="plot" id="plot-{name}" role="img" '
        f'aria-labelledby="about-{name}" style="height: {figure.layout.height}px"></div></figure>\n'
    )


def _table(caption: str, head: list[str], rows: list[list[str]], n_names: int = 1) -> str:
    """
    :param n_names: columns that are words
    """
    kinds = [' class="name"' if i < n_names else "" for i in range(len(head))]
    cells = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, head, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _short(found: Interval) -> str:
    mean, low, high = (f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" for value in found)
    return f"{mean} [{low}, {high}]"


def _use_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section:
    use = findings.use
    caption = (
        "Points are mean returns, lines their 95 % intervals over episodes. The further left of the dotted line, the more is "
        "lost with this memory."
    )
    rows = [
        [name, _short(found), "" if name == "as it is" else _short(use.lost(name))] for name, found in use.intervals().items()
    ]
    table = _table("Returns with their 95 % intervals", ["memory", "return", "lost"], rows)
    html = f'<div class="pair">{_figure("use", use_figure(use), caption, figures)}<div>{table}</div></div>'
    return _Section("use", "Does it need its memory?", html)


def _values(findings: Findings) -> dict[str, np.ndarray]:
    """What is told of each step beside the slider, (T,) each."""
    episode = findings.episode
    n_steps = len(episode.rewards)
    observed = flat(episode.observations)
    found: dict[str, np.ndarray] = {}
    if observed.shape[1] <= _MOST_VALUES:
        found |= dict(zip(names_of(episode.observations), observed.T, strict=True))
    actions = episode.actions.reshape(n_steps, -1)
    if actions.shape[1] <= _MOST_VALUES:
        found |= {"action" if actions.shape[1] == 1 else f"a[{i}]": values for i, values in enumerate(actions.T)}
    return found | {"reward": episode.rewards, "return so far": np.cumsum(episode.rewards)} | episode.quantities


def _told_by_step(findings: Findings) -> dict[str, Any]:
    values = [
        # Without the sign of -0
        [f"{value + 0.0:.3g}" if np.issubdtype(of_name.dtype, np.number) else str(value) for value in of_name]
        for of_name in _values(findings).values()
    ]
    return {"values": values, "pictures": findings.pictures, "path": PATH, "current": CURRENT}


def _episode_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section:
    episode = findings.episode
    last = len(episode.rewards) - 1
    values = "".join(f"<div><dt>{escape(name)}</dt><dd></dd></div>" for name in _values(findings))
    picture = '<img id="picture" alt="The environment at this step">' if findings.pictures else ""
    scrubber = (
        f'<div class="scrubber">{picture}<div class="controls"><div class="line"><label for="step">Step</label>'
        f'<input type="range" id="step" min="0" max="{last}" value="0" step="1"><output id="shown-step" for="step"></output>'
        f'<button type="button" id="play">Play</button></div><dl class="values">{values}</dl></div></div>'
    )
    every = "" if len(findings.pictures) in (0, last + 1) else " The picture is that of the last step that has one."
    intro = f"<p>The slider, the arrow keys, or a click on the figure move through an episode of median return.{every}</p>"
    caption = (
        "Read it from left to right: what was seen, done and gained above, and below one row for each unit of the memory, red "
        "where it is positive and blue where it is negative. Rows that change together stand together."
    )
    n_seen = len(names_of(episode.observations))
    if n_seen > MOST_ROWS:
        caption += f" Observations have {n_seen} numbers, too many to draw."
    about_portrait = (
        f"Each point is the memory after one step of one of {len(findings.portrait)} episodes, seen from where memories "
        "differ most. Where colours lie apart, the memory tells them apart. The orange line is the episode above, the dot its "
        "step."
    )
    html = (
        intro
        + scrubber
        + _figure("episode", episode_figure(episode), caption, figures)
        + "<h3>Phase portrait</h3>"
        + _figure("portrait", portrait_figure(findings.portrait, episode), about_portrait, figures)
    )
    return _Section("episode", "One episode, step by step", html)


def _recall_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section | None:
    if findings.recall is None:
        return None
    caption = (
        "Bars are the share that the observation so many steps ago has in the gradient of what the last action is chosen by. "
        "Gradients tell of small changes: a memory that has made up its mind can have almost none."
    )
    return _Section(
        "recall", "What does it look back at?", _figure("recall", recall_figure(findings.recall), caption, figures)
    )


def _is_discrete(findings: Findings) -> bool:
    return not np.issubdtype(findings.episode.actions.dtype, np.floating)


def _odd_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section:
    odd = findings.odd
    caption = (
        "How far actions are from what they would have been, had one observation not been replaced by an odd one. A line that "
        "stays high means that the memory does not recover."
    )
    cost = f"<p>The odd observation costs {_short(odd.lost)} of the return, the brackets being a 95 % interval.</p>"
    return _Section(
        "odd",
        "How long does an odd observation stay?",
        _figure("odd", contamination_figure(odd, _is_discrete(findings)), caption, figures) + cost,
    )


def _probes_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section | None:
    if findings.probes is None:
        return None
    caption = (
        "How well each quantity is read from the memory, of episodes that the probe has not seen: 1 is perfect. What an "
        "untrained memory or the last observations tell as well was not learned. R² says little at steps at which episodes "
        "hardly differ."
    )
    rows = [
        [quantity, source, *(f"{kinds[kind].score():.3f}" for kind in ("linear", "mlp"))]
        for quantity, sources in findings.probes.decoded.items()
        for source, kinds in sources.items()
    ]
    table = _table(
        "Scores over all steps: R², or accuracy of classes", ["quantity", "read from", "linear", "network"], rows, n_names=2
    )
    return _Section(
        "probes", "What does it know?", _figure("probes", probes_figure(findings.probes), caption, figures) + table
    )


def _machine_section(findings: Findings, figures: dict[str, "go.Figure"]) -> _Section | None:
    report = findings.quantization
    if report is None:
        return None

    def kept(returns: np.ndarray) -> list[str]:
        share = report.kept(returns)
        return [_short(interval(returns)), "" if np.isnan(share) else f"{share:.0%}"]

    rows = {"the policy": report.original, "memory zeroed": report.zeroed}
    rows |= {f"{name} alone": returns for name, returns in report.alone.items()}
    rows |= {"all inserted": report.inserted, "all, fine-tuned": report.tuned}
    html = _table(
        "Codes of few ternary digits in place of observation and memory: how much of what the memory is worth they keep",
        ["codes", "return", "kept"],
        [[name, *kept(returns)] for name, returns in rows.items()],
    )
    html += f"<p>The fine-tuned policy chooses as the original on {report.agreement:.0%} of the steps."
    if report.kept(report.tuned) < _ENOUGH_KEPT:
        html += " It is not as good: what follows shows another policy than the one above. Larger codes may keep more."
    html += "</p>"
    machines = [
        [
            scored.name,
            str(scored.machine.n_states),
            str(scored.machine.n_symbols),
            *kept(scored.returns),
            f"{scored.asked:.1%}",
        ]
        for scored in findings.machines
    ]
    html += _table(
        "Machines read off the codes. Where their table has no entry, the quantized policy is asked",
        ["machine", "states", "symbols", "return", "kept", "asked"],
        machines,
    )
    for i, scored in enumerate(findings.machines):
        graph = graph_of(scored.machine, findings.walks)
        # Danesh et al. recommend it for the machine that was seen
        is_contracted = scored.name == SEEN
        n_nodes = len(contracted(graph) if is_contracted else graph)
        if n_nodes > MOST_NODES and scored.name != SEEN:
            continue
        caption = _ABOUT_MACHINES[scored.name]
        if n_nodes > MOST_NODES:
            caption += f" Drawn are the {MOST_NODES} of {n_nodes} nodes that are visited most."
        if not _is_discrete(findings):
            caption += " Blue is a low action, orange a high one."
        figure = machine_figure(scored.machine, findings.walks, is_contracted)
        html += f"<h3>The machine {escape(scored.name)}</h3>" + _figure(f"machine-{i}", figure, caption, figures)
    return _Section("machine", "The policy as a machine", html)
