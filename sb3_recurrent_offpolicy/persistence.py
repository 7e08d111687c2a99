"""What is saved of an algorithm, and what does not fit when it is loaded."""

import inspect
import io
import json
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from torch.utils._pytree import tree_map

from sb3_recurrent_offpolicy.acting import BehaviorPolicy
from sb3_recurrent_offpolicy.checks import check_numbers
from sb3_recurrent_offpolicy.files import check_seal, reading, sealed_archive, with_suffix, written_aside
from sb3_recurrent_offpolicy.optimizing import check_finite_parameters
from sb3_recurrent_offpolicy.plain import NotPlainError, from_plain, to_plain
from sb3_recurrent_offpolicy.policies import RecurrentPolicy
from sb3_recurrent_offpolicy.type_aliases import Memory

# Of a saved model: what SB3 pickles, once more as JSON
_PLAIN = "plain.json"
_PICKLED = ":serialized:"

# Attributes that mean nothing elsewhere
_OF_THIS_PROCESS = ("_checkpoint_position", "_task_at_rest", "deliveries", "fleet_place")

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
        *,
        trusted: bool = True,
        **kwargs: Any,
    ) -> SelfSavedAlgorithm:
        """
        Load the model from a zip-file. As in SB3, this runs pickles that the file holds, and they can do anything: load a file
        with ``trusted=False`` unless you, or people you trust, have made it.

        :param path: path to the file (or a file-like) where to load the model from
        :param env: the environment to run the loaded model on; without one it can predict
        :param device: device on which the code should run
        :param custom_objects: objects to use in place of saved ones, by name
        :param print_system_info: print what system the model was saved on, and the present one
        :param force_reset: begin a new episode before training; False goes on in the episode in which the model was saved
        :param trusted: False runs no pickle. Weights are read by torch with ``weights_only=True``, settings as JSON. Functions
            and classes from elsewhere, which have no form there, are left at their defaults, and a warning names them;
            ``custom_objects`` can give them. The model predicts as the saved one does. To train on, load it trusted
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
        with reading(path, ".zip", f"loaded as {cls.__name__}") as file:
            source = _checked(file) if trusted else _without_pickles(file, custom_objects := dict(custom_objects or {}))
            try:
                model = super().load(source, env, device, custom_objects, print_system_info, force_reset, **kwargs)
            except (AssertionError, KeyError, RuntimeError) as error:
                # What does not fit makes SB3 look for the optimizer of an older file, which is not there either
                reason = error.__context__ if isinstance(error, KeyError) and error.__context__ else error
                raise ValueError(str(reason)) from error
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
        Save all the attributes of the object and the model parameters in a zip-file. It takes its place when it is complete.

        :param path: path to the file where the model should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        :raises ValueError: if a parameter is not finite; what was there before stays in place
        """
        check_finite_parameters(self.policy)
        # Must load on machines without this device
        self._saved_memory = tree_map(lambda tensor: tensor.cpu(), self.behavior.memory)
        by_sb3, whole = io.BytesIO(), io.BytesIO()
        super().save(by_sb3, exclude, include)
        with zipfile.ZipFile(by_sb3) as source, sealed_archive(whole) as archive:
            for entry in source.infolist():
                archive.writestr(entry.filename, source.read(entry))
            archive.writestr(_PLAIN, json.dumps(self._plain_forms(json.loads(source.read("data")))))
        if isinstance(path, (str, os.PathLike)):
            with written_aside(with_suffix(path, ".zip")) as file:
                file.write(whole.getbuffer())
        else:
            path.write(whole.getbuffer())

    def _plain_forms(self, data: dict[str, Any]) -> dict[str, Any]:
        """Of the entries that SB3 has pickled, those that JSON can hold."""
        found = {}
        for name, value in data.items():
            if isinstance(value, dict) and _PICKLED in value:
                with suppress(NotPlainError):
                    found[name] = to_plain(getattr(self, name))
        return found

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load parameters from a given zip-file or a nested dictionary; parameters as in SB3. No pickle is run.

        :param load_path_or_dict: location of the saved data (path or file-like), or the dictionary itself
        :param exact_match: whether each module must be given
        :param device: device on which the code should run
        :raises ValueError: if the file is damaged, or does not fit
        """
        super().set_parameters(self._parameters_of(load_path_or_dict, device), exact_match, device)

    @staticmethod
    def _parameters_of(load_path_or_dict: Any, device: th.device | str) -> Any:
        if isinstance(load_path_or_dict, dict):
            return load_path_or_dict
        with reading(load_path_or_dict, ".zip") as file:
            return load_from_zip_file(_checked(file), load_data=False, device=device)[1]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self.network_names, "behavior", "_torch_generator", *_OF_THIS_PROCESS]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *self.optimizer_names], []


def _contains(saved: Any, given: Any) -> bool:
    """Whether all that is given was saved, entry by entry where both are dicts."""
    if isinstance(saved, dict) and isinstance(given, dict):
        return all(_contains(saved.get(name), value) for name, value in given.items())
    return bool(saved == given)


def _checked(file: Any) -> Any:
    """
    :param file: a saved model, of any version
    :return: the same
    :raises ValueError: if it is damaged
    """
    if not check_seal(file):
        with zipfile.ZipFile(file) as archive:
            # Of a file that was cut off, an archive inside of it may be what is found
            if _PLAIN in archive.namelist() or "data" not in archive.namelist():
                raise ValueError("it is no saved model, or its checksum is missing, because it is damaged. Take another copy")
        file.seek(0)
    return file


def _without_pickles(file: Any, custom_objects: dict[str, Any]) -> Any:
    """
    :param file: a saved model
    :param custom_objects: what is to be used in place of entries of the file; those that JSON holds are added
    :return: the same without any pickle
    """
    harmless = io.BytesIO()
    with zipfile.ZipFile(_checked(file)) as source, zipfile.ZipFile(harmless, "w") as target:
        names = source.namelist()
        data = json.loads(source.read("data"))
        plain = json.loads(source.read(_PLAIN)) if _PLAIN in names else {}
        pickled = {name for name, value in data.items() if isinstance(value, dict) and _PICKLED in value}
        missing = []
        for name in sorted(pickled - set(custom_objects)):
            try:
                custom_objects[name] = from_plain(plain[name])
            except (KeyError, NotPlainError):
                missing.append(name)
                del data[name]
        for name in pickled & set(custom_objects):
            data[name] = None
        target.writestr("data", json.dumps(data))
        for name in names:
            if name.endswith((".pth", ".txt")):
                target.writestr(name, source.read(name))
    if missing:
        warnings.warn(f"Not taken from the file, because only a pickle holds them: {missing}. custom_objects can give them")
    harmless.seek(0)
    return harmless
