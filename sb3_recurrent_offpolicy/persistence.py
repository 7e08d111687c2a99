"""What is saved of an algorithm, and what does not fit when it is loaded."""

import inspect
import io
import pathlib
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.acting import BehaviorPolicy
from sb3_recurrent_offpolicy.checks import check_numbers
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.type_aliases import Memory

SelfSavedAlgorithm = TypeVar("SelfSavedAlgorithm", bound="SavedAlgorithm")


class SavedAlgorithm(OffPolicyAlgorithm):
    """An off-policy algorithm that can be saved in mid-episode, and that says what does not fit when it is loaded."""

    network_names: ClassVar[tuple[str, ...]]
    optimizer_names: ClassVar[tuple[str, ...]]

    policy: RecurrentPolicy
    behavior: BehaviorPolicy
    algorithm_name: str
    # Of the episodes that ran when the model was saved
    _saved_memory: Memory | None = None

    @classmethod
    def _algorithm_name(cls) -> str:
        """Of the algorithm that this class is, or extends outside of the package."""
        package = __name__.split(".")[0]
        return next(base.__name__ for base in cls.__mro__ if base.__module__.split(".")[0] == package)

    def _check_algorithm(self) -> None:
        if self.algorithm_name != self._algorithm_name():
            raise ValueError(f"it was saved by {self.algorithm_name}: use {self.algorithm_name}.load")

    @classmethod
    def load(
        cls: type[SelfSavedAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSavedAlgorithm:
        """
        Load the model from a zip-file.

        :param path: path to the file (or a file-like) where to load the model from
        :param env: the environment to run the loaded model on; without one it can predict
        :param device: device on which the code should run
        :param custom_objects: objects to use in place of saved ones, by name
        :param print_system_info: print what system the model was saved on, and the present one
        :param force_reset: begin a new episode before training; False goes on in the episode in which the model was saved
        :param kwargs: settings of the algorithm that replace the saved ones, e.g. ``burn_in=20``. Of ``policy_kwargs`` only
            ``memory_lr_scale`` can be replaced; others may be given again as when the model was made
        :return: new model instance with loaded parameters
        :raises ValueError: if the file holds no complete model of this class, or one that what is passed on does not fit
        """
        # A subclass may take some by name and pass on others
        algorithms = [base for base in cls.__mro__ if hasattr(base, "policy_type")]
        known = {name for algorithm in algorithms for name in inspect.signature(algorithm).parameters}
        known -= {"policy", "env", "device", "args", "kwargs", "_init_setup_model"}
        if unknown := sorted(set(kwargs) - known):
            raise ValueError(f"{cls.__name__}.load does not know {unknown}; settings that can be replaced: {sorted(known)}")
        # SB3 compares them with all that is saved; what is not given stays as it was
        given = kwargs.pop("policy_kwargs", None) or {}
        if "use_sde" in kwargs:
            given = given | {"use_sde": kwargs.pop("use_sde")}
        check_numbers(0, memory_lr_scale=given.get("memory_lr_scale", 1.0))
        try:
            model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            # What does not fit makes SB3 look for the optimizer of an older file, which is not there either
            reason = error.__context__ if isinstance(error, KeyError) and error.__context__ else error
            raise ValueError(f"{path} cannot be loaded as {cls.__name__}: {reason}") from error
        if "memory_lr_scale" in given:
            # The only one that changes no network
            model.policy.memory_lr_scale = model.policy_kwargs["memory_lr_scale"] = given["memory_lr_scale"]
        if changed := sorted(name for name, value in given.items() if not _contains(model.policy_kwargs.get(name), value)):
            raise ValueError(
                f"{path} was saved with other policy_kwargs: {changed} cannot be changed, because the saved networks were "
                "made with them. Leave policy_kwargs out"
            )
        return model

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save all the attributes of the object and the model parameters in a zip-file.

        :param path: path to the file where the model should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        """
        # Must load on machines without this device
        self._saved_memory = tree_map(lambda tensor: tensor.cpu(), self.behavior.memory)
        super().save(path, exclude, include)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self.network_names, "behavior", "_torch_generator"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *self.optimizer_names], []


def _contains(saved: Any, given: Any) -> bool:
    """Whether all that is given was saved, entry by entry where both are dicts."""
    if isinstance(saved, dict) and isinstance(given, dict):
        return all(_contains(saved.get(name), value) for name, value in given.items())
    return bool(saved == given)
