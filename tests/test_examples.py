"""Every script of ``examples/`` runs from start to end on a short setting, and learns in it."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from sb3_recurrent_offpolicy.algorithm import RecurrentOffPolicyAlgorithm

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))

# A few updates beyond the default of ``learning_starts``
STEPS = 1100


@pytest.mark.parametrize("name", SCRIPTS)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[Any] = []
    learn = RecurrentOffPolicyAlgorithm.learn

    def noted(model: Any, *args: Any, **kwargs: Any) -> Any:
        models.append(model)
        return learn(model, *args, **kwargs)

    monkeypatch.setattr(RecurrentOffPolicyAlgorithm, "learn", noted)
    # Scripts save to logs/ of the working directory
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(STEPS)
    assert models and all(model._n_updates > 0 for model in models)
    if name == "evaluate_and_record":
        assert any(tmp_path.glob("logs/videos/*.mp4"))


def test_each_example_is_listed_once() -> None:
    listed = re.findall(r"\((\w+)\.py\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == SCRIPTS
