"""Environments in processes of their own that checkpoints can go on with."""

from typing import Any

import gymnasium as gym

from sb3_recurrent_offpolicy import exact_pickle


class ResumableEnv(gym.Wrapper[Any, Any, Any, Any]):
    """
    Tells the state of an environment, and takes it up again: random generator, position, running episode, all wrappers inside.

    A checkpoint holds environments of a ``DummyVecEnv`` itself. Those of a ``SubprocVecEnv`` it has to ask, and this wrapper
    answers: ``make_vec_env(..., vec_env_cls=SubprocVecEnv, wrapper_class=ResumableEnv)``. It has to be the outermost one.

    :param env: the environment, which a pickle must be able to hold
    """

    def running_state(self) -> bytes | str:
        """
        :return: the state, or why there is none: an exception would end the process
        """
        try:
            return exact_pickle.dumps(self.env)
        except Exception as error:
            return f"{self.env} cannot be pickled: {error!r}"

    def restore_running_state(self, state: bytes) -> None:
        """
        :param state: from :meth:`running_state`
        """
        self.env.close()
        self.env = exact_pickle.loads(state)
