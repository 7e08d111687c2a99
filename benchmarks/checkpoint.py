"""What a long run leaves behind from time to time, so that an interruption costs no more than the last stretch."""

import json
import shutil
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize


class Checkpoint:
    """
    Model, replay and the curve so far.

    :param folder: where they lie; removed with the run's end
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self) -> bool:
        return self.folder.exists()

    def save(self, model: BaseAlgorithm, points: list[dict[str, float]]) -> None:
        """An interruption while files are written keeps the one before."""
        unfinished = self.folder.with_name(f"{self.folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        model.save(unfinished / "model.zip")
        if isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(unfinished / "replay.pkl")
        if normalizer := model.get_vec_normalize_env():
            normalizer.save(str(unfinished / "normalizer.pkl"))
        (unfinished / "curve.json").write_text(json.dumps(points))
        self.remove()
        unfinished.rename(self.folder)

    def load(self, fresh: BaseAlgorithm) -> tuple[BaseAlgorithm, list[dict[str, float]]]:
        """
        :param fresh: a model of the same settings; the saved one takes over its environment, from a reset on
        :return: the saved model and its curve
        """
        if normalizer := fresh.get_vec_normalize_env():
            saved = VecNormalize.load(str(self.folder / "normalizer.pkl"), normalizer.venv)
            normalizer.obs_rms, normalizer.ret_rms = saved.obs_rms, saved.ret_rms
        model = type(fresh).load(self.folder / "model.zip", env=fresh.get_env(), device=fresh.device)
        if isinstance(model, OffPolicyAlgorithm):
            model.load_replay_buffer(self.folder / "replay.pkl")
        # Not the random numbers of the beginning again
        model.set_random_seed((fresh.seed or 0) + model.num_timesteps)
        return model, json.loads((self.folder / "curve.json").read_text())

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
