"""The start-up hook changes RL Zoo's modules and nothing else, never stops Python, and stays away when it is not wanted."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path
from zipfile import ZipFile

import pytest

HOOK = Path(__file__).parent.parent / "startup_hook"
NAME = "sb3_recurrent_offpolicy_zoo"
# Enough of RL Zoo and of this package for the hook, without torch
RL_ZOO = {
    "rl_zoo3/__init__.py": "",
    "rl_zoo3/utils.py": "loader_seen = __loader__",
    "rl_zoo3/other.py": "",
    "rl_zoo3/exp_manager.py": "",
    "rl_zoo3/settings.yml": "settings",
}
REGISTERING = "def register(module): print('registered', module.__name__)"
FAILING = "def register(module): raise RuntimeError('broken installation')"
# From Python 3.15 on the .start file decides, which cannot guard itself
the_line_is_run = pytest.mark.skipif(sys.version_info >= (3, 15), reason="the line in the .pth file is not run")


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | environment, cwd=cwd, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


class Site:
    """A site-packages folder with the hook, a small ``rl_zoo3`` in a zip archive and a stand-in for this package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "rl_zoo.zip"
        for suffix in (".py", ".pth", ".start"):
            shutil.copy(HOOK / f"{NAME}{suffix}", folder)
        with ZipFile(self.archive, "w") as archive:
            for name, text in RL_ZOO.items():
                archive.writestr(name, text)
        (folder / "sb3_recurrent_offpolicy").mkdir()
        (folder / "sb3_recurrent_offpolicy" / "__init__.py").touch()
        self.registration(REGISTERING)

    def registration(self, code: str) -> None:
        (self.folder / "sb3_recurrent_offpolicy" / "zoo.py").write_text(code)

    def python(self, code: str, *options: str, before: str = "") -> str:
        """
        Run code as if Python had started with this folder as its only site-packages, and return what it prints.

        :param code: What to run
        :param options: Options of the interpreter
        :param before: What to run before the hook
        """
        start = (
            f"import site, sys\nsys.path.insert(0, {str(self.archive)!r})\n{before}\nsite.addsitedir({str(self.folder)!r})\n"
        )
        return python("-S", *options, "-c", start + code, cwd=self.folder, PYTHONPATH="", SB3_RECURRENT_NO_ZOO="")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_modules_that_share_a_loader_with_rl_zoos_are_left_alone(site: Site) -> None:
    printed = site.python("import rl_zoo3.utils, rl_zoo3.other, rl_zoo3.exp_manager")
    assert printed.splitlines() == ["registered rl_zoo3.utils", "registered rl_zoo3.exp_manager"]


def test_the_loader_of_the_module_is_the_real_one(site: Site) -> None:
    printed = site.python("""
import importlib.resources, inspect, zipimport
import rl_zoo3.utils as utils, rl_zoo3.other as other

assert type(utils.__loader__) is zipimport.zipimporter
assert utils.__loader__ is utils.__spec__.loader is utils.loader_seen is other.__loader__
assert "exec_module" not in vars(utils.__loader__)
print(inspect.getsource(utils))
print(importlib.resources.files("rl_zoo3").joinpath("settings.yml").read_text())
""")
    assert printed.splitlines() == ["registered rl_zoo3.utils", RL_ZOO["rl_zoo3/utils.py"], "", "settings"]


def test_the_loader_can_be_asked_for_code_and_source_before_the_import(site: Site) -> None:
    printed = site.python("""
import importlib.util, runpy

loader = importlib.util.find_spec("rl_zoo3.utils").loader
print(loader.get_source("rl_zoo3.utils"), loader.is_package("rl_zoo3.utils"))
print(runpy.run_module("rl_zoo3.utils")["__name__"])
""")
    assert printed.splitlines() == [RL_ZOO["rl_zoo3/utils.py"] + " False", "rl_zoo3.utils"]


def test_reloading_registers_again(site: Site) -> None:
    printed = site.python("import importlib, rl_zoo3.utils\nimportlib.reload(rl_zoo3.utils)")
    assert printed.splitlines() == ["registered rl_zoo3.utils"] * 2


def test_finders_of_the_old_kind_are_passed_over(site: Site) -> None:
    # Python up to 3.11 asks find_module, later ones pass over the finder as well
    before = "sys.meta_path.insert(0, type('Old', (), {'find_module': lambda self, name, path: None})())"
    printed = site.python("import rl_zoo3.utils", "-W", "ignore", before=before)
    assert printed.splitlines() == ["registered rl_zoo3.utils"]


@pytest.mark.parametrize("options", [(), ("-W", "error")], ids=["warning", "warnings are errors"])
def test_a_failing_registration_says_so_and_the_import_goes_on(options: tuple[str, ...], site: Site) -> None:
    site.registration(FAILING)
    printed = site.python("import rl_zoo3.utils, rl_zoo3.exp_manager; print('went on')", *options)
    for module in ("utils", "exp_manager"):
        assert f"could not extend rl_zoo3.{module}: RuntimeError('broken installation')" in printed
    assert "went on" in printed and "Traceback" not in printed


@the_line_is_run
def test_without_the_module_the_line_does_nothing(site: Site) -> None:
    (site.folder / f"{NAME}.py").unlink()
    assert site.python("import rl_zoo3.utils").strip() == ""


@the_line_is_run
def test_starting_python_imports_the_hook_alone(site: Site) -> None:
    # Reading any .pth file may import something
    other = site.folder / "other"
    other.mkdir()
    (other / "other.pth").write_text("import sys\n")
    before = f"site.addsitedir({str(other)!r})\nbefore = set(sys.modules)"
    assert site.python("print(sorted(set(sys.modules) - before))", before=before).strip() == str([NAME])


def test_the_three_files_are_installed(tmp_path: Path) -> None:
    installed = {str(path) for path in files("sb3_recurrent_offpolicy") or ()}
    assert {f"{NAME}.pth", f"{NAME}.start"} <= installed
    found = python("-c", f"import {NAME}; print({NAME}.__file__)", cwd=tmp_path)
    assert Path(found.strip()).read_text() == (HOOK / f"{NAME}.py").read_text()


@pytest.mark.parametrize("value", ["", "1"], ids=["on", "off"])
def test_rl_zoo_knows_us_unless_switched_off(value: str, tmp_path: Path) -> None:
    known = "import rl_zoo3; print('recurrent_td3' in rl_zoo3.ALGOS, len(rl_zoo3.ALGOS) > 4)"
    assert python("-c", known, cwd=tmp_path, SB3_RECURRENT_NO_ZOO=value).split()[-2:] == [str(value != "1"), "True"]


def test_the_hook_costs_nothing_until_rl_zoo_is_imported(tmp_path: Path) -> None:
    modules = ("torch", "sb3_recurrent_offpolicy", NAME)
    loaded = python("-c", f"import sys; print(*(name in sys.modules for name in {modules}))", cwd=tmp_path)
    assert loaded.split() == ["False", "False", "True"]
