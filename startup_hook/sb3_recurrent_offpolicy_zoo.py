"""
Start-up hook: lets an unmodified ``python -m rl_zoo3.train --algo recurrent_td3`` find the algorithms of this package.

RL Zoo has no plugin mechanism, so the modules concerned are extended at the moment they are imported. An interpreter
that never imports ``rl_zoo3`` pays for one entry in ``sys.meta_path``. ``SB3_RECURRENT_NO_ZOO=1`` switches the hook off.
"""

import os
import sys

MODULES = ("rl_zoo3.utils", "rl_zoo3.exp_manager")


class _ZooFinder:
    def find_spec(self, fullname, path=None, target=None):
        if fullname not in MODULES:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        specs = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _RegisteringLoader(spec.loader)  # type: ignore[assignment]
        return spec


class _RegisteringLoader:
    """Stands in for the loader, which must stay as it is: all modules of a zip archive share one."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def exec_module(self, module):
        # inspect, importlib.resources and the module itself see the real loader
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        try:
            from sb3_recurrent_offpolicy import zoo

            zoo.register(module)
        except Exception as error:
            _warn(f"sb3_recurrent_offpolicy could not extend {module.__name__}: {error!r}")


def _warn(message):
    import warnings

    try:
        warnings.warn(message)
    except Exception:
        # python -W error turns warnings into exceptions, which would stop RL Zoo
        print(message, file=sys.stderr)


def install() -> None:
    """Called at interpreter start by ``sb3_recurrent_offpolicy_zoo.pth`` (``.start`` from Python 3.15 on). Never raises."""
    installed = any(type(finder).__name__ == "_ZooFinder" for finder in sys.meta_path)
    if not installed and os.environ.get("SB3_RECURRENT_NO_ZOO") != "1":
        sys.meta_path.insert(0, _ZooFinder())
