"""The page of all findings: complete, and on its own; and its command line."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_recurrent_offpolicy import R2D2, RecurrentTD3
from sb3_recurrent_offpolicy.analysis.__main__ import main
from sb3_recurrent_offpolicy.analysis.findings import Findings, findings_of
from sb3_recurrent_offpolicy.analysis.page import page, verdict, write_page
from tests.envs import RecallEnv
from tests.memories import EchoEnv, ShiftRegister, model_with

LENGTH = 12


class DrawnEnv(EchoEnv):
    """Draws what it shows."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  as Gymnasium has it
    render_mode = "rgb_array"

    def render(self) -> np.ndarray:
        return np.full((400, 600, 3), 255 * self.bits[-1], dtype=np.uint8)


def make_env() -> DrawnEnv:
    return DrawnEnv(2, LENGTH)


@pytest.fixture(scope="module")
def findings() -> Findings:
    """A policy that remembers its last observations, on a task that asks for one of them; untrained, and fast."""
    model = model_with(ShiftRegister, 3, make_env())
    return findings_of(
        model,
        make_env,
        {"asked": "asked", "length": lambda envs, infos: np.full(len(infos), 0.5)},
        n_episodes=20,
        observation_code=4,
        memory_code=4,
        title="<Echo> & more",
    )


@pytest.fixture(scope="module")
def html(findings: Findings) -> str:
    return page(findings)


def test_findings_are_of_the_median_episode(findings: Findings) -> None:
    returns = findings.use.returns["as it is"]
    assert findings.episode.rewards.sum() in returns
    assert abs(findings.episode.rewards.sum() - np.median(returns)) <= np.ptp(returns) / 4
    assert list(findings.pictures) == list(range(LENGTH))
    assert [scored.name for scored in findings.machines] == ["as it was seen", "completed and minimised", "learned by RPNI"]


def test_page_fetches_nothing(html: str) -> None:
    own = re.sub(r"<script>\(?/?\*.*?</script>", "", html, count=1, flags=re.S)
    assert len(own) < 1e6 < len(html) < 6e6
    assert not re.findall(r"https?://", own)
    assert html.count("* plotly.js v") == 1
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', own) == []
    assert "default-src 'none'" in own and "&lt;Echo&gt; &amp; more" in own and "<Echo>" not in own


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"no browser to open the page in: none of {', '.join(names)} is installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, path: Path, html: str) -> tuple[Any, list[str]]:
    """The page, drawn, and what went wrong or was asked for meanwhile."""
    path.write_text(html)
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    troubles: list[str] = []
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
    return tab, troubles


def wait_until(tab: Any, condition: str) -> None:
    """Playwright's own way to wait needs eval, which the page forbids."""
    deadline = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(20)


def test_page_in_a_browser(browser: Any, findings: Findings, html: str, tmp_path: Path) -> None:
    tab, troubles = opened(browser, tmp_path / "page.html", html)
    names = ["use", "episode", "portrait", "recall", "odd", "probes", "machine-0", "machine-1", "machine-2"]
    assert tab.locator(".plot").evaluate_all("plots => plots.map(plot => plot.id)") == [f"plot-{name}" for name in names]
    for name in names:
        assert tab.locator(f"#plot-{name} svg.main-svg").count() > 0
        traces = tab.locator(f"#plot-{name}").locator(".scatterlayer .trace, .heatmaplayer image, .barlayer .trace")
        assert traces.count() > 0, name
    # No offer to upload what is drawn
    assert tab.locator('[data-title*="Share"], [data-title*="Cloud"]').count() == 0

    def shown() -> list[Any]:
        line = "document.getElementById('plot-episode')._fullLayout.shapes.map(shape => shape.x0)"
        dot = "document.getElementById('plot-portrait').data.at(-1)"
        wait_until(tab, f"{line}[0] === Number(document.getElementById('step').value)")
        return [
            tab.locator("#shown-step").text_content(),
            tab.evaluate(line),
            tab.evaluate(f"[{dot}.x, {dot}.y].map(of => of.flat().length)"),
            tab.locator(".values dd").all_text_contents()[1:5],
            tab.locator("#picture").get_attribute("src"),
        ]

    def expected(step: int) -> list[Any]:
        episode = findings.episode
        values = [
            episode.actions[step],
            episode.rewards[step],
            episode.rewards[: step + 1].sum(),
            episode.quantities["asked"][step],
        ]
        return [f"{step} of {LENGTH - 1}", [step, step], [1, 1], [f"{value:.3g}" for value in values], findings.pictures[step]]

    assert shown() == expected(0)
    slider = tab.get_by_label("Step", exact=True)
    slider.fill("7")
    assert shown() == expected(7)
    slider.press("ArrowRight")
    assert shown() == expected(8)
    # Without the slider in focus
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    assert shown() == expected(6)
    tab.get_by_role("button", name="Play").click()
    wait_until(tab, f"document.getElementById('step').value === '{LENGTH - 1}'")
    assert shown() == expected(LENGTH - 1)
    tab.set_viewport_size({"width": 400, "height": 800})
    wait_until(tab, "document.documentElement.scrollWidth <= 400")
    assert troubles == []
    tab.close()


def test_missing_parts_are_left_out(browser: Any, findings: Findings, tmp_path: Path) -> None:
    few = findings._replace(recall=None, probes=None, quantization=None, machines=[], pictures={}, remarks=["No machine."])
    html = page(few)
    tab, troubles = opened(browser, tmp_path / "page.html", html)
    assert tab.locator("section").evaluate_all("sections => sections.map(section => section.id)") == ["use", "episode", "odd"]
    assert tab.locator("nav a").count() == 3 and tab.locator("footer").text_content().startswith("No machine.")
    assert tab.locator("#picture").count() == 0 and troubles == []
    tab.close()


def test_verdict(findings: Findings) -> None:
    use = findings.use
    for uses, needs, smallest, said in [
        (False, False, 0, "does not use"),
        (True, False, 3, "could do without"),
        (True, True, 1, "The last step before the current one suffices"),
        (True, True, None, "than were tried"),
    ]:
        assert said in verdict(use._replace(uses_memory=uses, needs_memory=needs, smallest_memory=smallest))


def test_page_of_continuous_actions(tmp_path: Path) -> None:
    """In an environment that draws nothing, and tells nothing that is hidden."""
    kwargs: dict[str, Any] = dict(device="cpu", buffer_size=100, policy_kwargs=dict(lstm_hidden_size=4, net_arch=[4]))
    model = RecurrentTD3("MlpLstmPolicy", RecallEnv(), **kwargs)
    found = findings_of(model, lambda: RecallEnv(), n_episodes=10, observation_code=2, memory_code=2)
    write_page(tmp_path / "page", found)
    assert found.pictures == {} and found.probes is None and found.machines[0].name == "as it was seen"
    assert any("RPNI" in remark for remark in found.remarks)
    assert (tmp_path / "page.html").stat().st_size > 1e6


def test_importing_needs_no_extra() -> None:
    code = (
        "import sys, sb3_recurrent_offpolicy.analysis as a, sb3_recurrent_offpolicy.analysis.page\n"
        "assert not {'plotly', 'networkx', 'matplotlib.pyplot', 'sklearn', 'aalpy', 'pydot'} & {*sys.modules} - {*before}"
    )
    before = "import sys, stable_baselines3, sb3_contrib, torch; before = {*sys.modules}\n"
    subprocess.run([sys.executable, "-c", before + code], check=True, timeout=120)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "m.zip"
    policy_kwargs = dict(lstm_hidden_size=4, net_arch=[4])
    R2D2("MlpLstmPolicy", "MemoryLength-v0", device="cpu", buffer_size=1000, policy_kwargs=policy_kwargs).save(path)
    return path


def test_command_line(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report"
    given = ["--algo", "r2d2", "--model", str(saved), "--env", "MemoryLength-v0", "--env-kwargs", "memory_length:4"]
    main([*given, "--quantity", "cue=context[0]", "--n-episodes", "10", "--no-machine", "-o", str(output)])
    written = (tmp_path / "report.html").read_text()
    assert (
        "The memory of r2d2 on MemoryLength-v0" in written
        and "What does it know?" in written
        and '"step" min="0" max="4"' in written
    )
    assert f"Wrote {output}.html" in capsys.readouterr().out


def test_command_line_takes_what_the_zoo_has_left(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics, arguments and wrappers beside the model."""
    import sb3_recurrent_offpolicy.analysis.__main__ as command
    from sb3_recurrent_offpolicy.envs import MemoryLength

    folder = tmp_path / "MemoryLength-v0"
    folder.mkdir()
    shutil.copy(saved, tmp_path / "m.zip")
    normalizer: Any = VecNormalize(DummyVecEnv([MemoryLength]))
    normalizer.obs_rms.mean += 3.0
    normalizer.save(str(folder / "vecnormalize.pkl"))
    (folder / "config.yml").write_text(
        "env_wrapper:\n- sb3_recurrent_offpolicy.envs.Flicker:\n    period: 2\nnormalize: true\n"
    )
    (folder / "args.yml").write_text("env_kwargs:\n  memory_length: 7\n")
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        command,
        "findings_of",
        lambda model, env, *args, **kwargs: found.update(model=model, env=env) or SimpleNamespace(use=None),
    )
    monkeypatch.setattr(command, "write_page", lambda path, findings: None)
    monkeypatch.setattr(command, "verdict", str)
    main(["--algo", "r2d2", "--model", str(tmp_path / "m.zip"), "--env", "MemoryLength-v0"])
    assert found["model"].get_vec_normalize_env().obs_rms.mean[0] == 3.0
    env = found["env"]()
    assert env.unwrapped.memory_length == 7 and "Flicker" in str(env)


MISTAKES = {
    "algo": (["--algo", "r2d3"], r"--algo r2d3: must be one of r2d2, "),
    "no file": (["--model", "nowhere.zip"], r"--model nowhere.zip: there is no such file"),
    "other algorithm": (["--algo", "recurrent_td3"], r"--model .* cannot be loaded as --algo recurrent_td3"),
    "no env": (["--env", "Nothing-v0"], r"--env Nothing-v0: .*--gym-packages"),
    "other env": (["--env", "PassiveTMaze-v0"], r"--env PassiveTMaze-v0: env has the observation_space .* trained"),
    "env_kwargs": (["--env-kwargs", "length=3"], r"--env-kwargs length=3: must be like memory_length:20"),
    "unknown env_kwargs": (["--env-kwargs", "length:3"], r"--env MemoryLength-v0 cannot be made with --env-kwargs .*'length'"),
    "quantity": (["--quantity", "context[0]"], r"--quantity context\[0\]: must be like velocity=state\[1\]"),
    "form of a quantity": (["--quantity", "cue=context[0"], r"--quantity cue=context\[0: .*must be like"),
    "no quantity": (["--quantity", "cue=velocity"], r"--quantity cue=velocity cannot be read from MemoryLength-v0"),
    "normalizer": (["--normalizer", "nowhere.pkl"], r"--normalizer nowhere.pkl: there is no such file"),
    "package": (["--gym-packages", "no_such_package"], r"--gym-packages no_such_package: No module named"),
    "episodes": (["--n-episodes", "3"], r"n_episodes=3 must be at least 10"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str, saved: Path, tmp_path: Path) -> None:
    wrong, message = MISTAKES[mistake]
    output = tmp_path / "page.html"
    with pytest.raises(SystemExit) as error:
        main(["--algo", "r2d2", "--model", str(saved), "--env", "MemoryLength-v0", "-o", str(output), *wrong])
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)
    assert not output.exists()


def test_missing_extra(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *args: None if name == "plotly" else find_spec(name, *args))
    with pytest.raises(SystemExit, match=r"plotly is missing: pip install 'sb3_recurrent_offpolicy\[analysis\]'"):
        main(["--algo", "r2d2", "--model", str(saved), "--env", "MemoryLength-v0"])
