"""Kill a training in random steps, go on each time, and compare its end with that of one that was never killed.

By hand: ``python tests/benchmarks/killed_training.py --kills 20``
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = Path(__file__).parents[1] / "edgetl" / "training" / "killed_child.py"
STEPS_OF_AN_EPOCH = 6


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:

        def child(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, str(CHILD), f"{folder}/t", *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        whole = child("alone").stdout.split()[-1]
        kills = 0
        while kills < given.kills:
            # Few steps at a time, so that it is killed often before it is done.
            step = rng.randint(1, STEPS_OF_AN_EPOCH + 2)
            ended = child("kill", str(step))
            if ended.returncode == -signal.SIGKILL:
                kills += 1
                print(f"killed in step {step} after going on", flush=True)
                continue
            same = ended.stdout.split()[-1] == whole
            print(f"came to its end after {kills} kills: {'the same' if same else 'OTHER'} weights", flush=True)
            if not same:
                return 1
            subprocess.run(["rm", "-r", f"{folder}/t"], check=True)
        same = child().stdout.split()[-1] == whole
    print(f"{kills} kills: {'the same' if same else 'OTHER'} weights as never killed")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
