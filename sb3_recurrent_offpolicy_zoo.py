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
        specs = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _registering(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _registering(exec_module):
    def exec_and_register(module):
        exec_module(module)
        try:
            from sb3_recurrent_offpolicy import zoo

            zoo.register(module)
        except Exception as error:
            import warnings

            warnings.warn(f"sb3_recurrent_offpolicy could not extend {module.__name__}: {error!r}")

    return exec_and_register


def install() -> None:
    """Called at interpreter start by ``sb3_recurrent_offpolicy_zoo.pth`` (``.start`` from Python 3.15 on). Never raises."""
    installed = any(type(finder).__name__ == "_ZooFinder" for finder in sys.meta_path)
    if not installed and os.environ.get("SB3_RECURRENT_NO_ZOO") != "1":
        sys.meta_path.insert(0, _ZooFinder())
