"""
R2D2 on single frames of an Atari game, through the RL Zoo with the ``atari`` entry of ``hyperparams/r2d2.yml``.

    python benchmarks/atari.py             # writes benchmarks/results/atari.json

What is measured: steps per second while collecting and while learning too, and the bytes that the replay buffer takes per step
against the 84 x 84 of one frame. 20,000 steps teach nothing yet.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch as th
from stable_baselines3.common.save_util import load_from_pkl

from sb3_recurrent_offpolicy import R2D2

RESULTS = Path(__file__).parent / "results"
ENV, N_STEPS = "PongNoFrameskip-v4", 20_000
FRAME_BYTES = 84 * 84


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = f"-m rl_zoo3.train --algo r2d2 --env {ENV} -n {N_STEPS} --seed 0 --eval-freq -1 --save-replay-buffer -f"
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command.split(), folder], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        if process.wait() != 0:
            sys.exit("rl_zoo3.train failed")
        seconds = time.perf_counter() - begun
        run = Path(folder) / "r2d2" / f"{ENV}_1"
        model = R2D2.load(run / f"{ENV}.zip", device="cpu")
        buffer = load_from_pkl(run / "replay_buffer.pkl")
    buffer_bytes = buffer.estimate_nbytes(model.policy.state_size)
    final_observation_bytes = sum(observation.nbytes for observation in buffer.rings[0].final_observations.values())
    # Averages since the beginning, the first of them before learning starts
    rates = [int(rate) for rate in re.findall(r"fps +\| (\d+)", "".join(lines))]
    frames = buffer.buffer_size * buffer.n_envs * FRAME_BYTES
    result = {
        "command": "python benchmarks/atari.py",
        "zoo": f"python {command.removesuffix(' -f')}",
        "threads": th.get_num_threads(),
        "seconds": round(seconds, 1),
        "updates": model._n_updates,
        "steps_per_second_collecting": rates[0],
        "steps_per_second_with_learning": rates[-1],
        "buffer_bytes_when_full": buffer_bytes,
        "final_observation_bytes_now": final_observation_bytes,
        "bytes_over_frames": round(buffer_bytes / frames + final_observation_bytes / (N_STEPS * FRAME_BYTES), 3),
    }
    (RESULTS / "atari.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
