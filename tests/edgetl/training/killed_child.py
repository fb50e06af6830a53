"""A training in a process of its own: goes on where it was, and prints the SHA-256 of its weights.

``killed_child.py FOLDER [alone | N]``: ``alone`` keeps no state; with N it kills itself in the N-th step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[3] / part) for part in (".", "export", "runtime")]
sys.path.insert(0, str(Path(__file__).parent))

from conftest import bars  # noqa: E402

from edgetl.finetune import finetune  # noqa: E402
from edgetl.recipe import ModelOptions  # noqa: E402
from edgetl.training.options import TrainOptions  # noqa: E402
from edgetl.training.snapshot import Keeping  # noqa: E402
from edgetl.training.stepper import Stepper  # noqa: E402

STEPS = 24
"""Of a whole training."""


def die_in_step(n: int) -> None:
    """SIGKILL to this very process after the gradients of its `n`-th step, before the step is done."""
    right, done = Stepper._gradients, 0

    def gradients(self: Stepper, *given: Any) -> Any:
        nonlocal done
        done += 1
        found = right(self, *given)
        if done == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    Stepper._gradients = gradients  # type: ignore[method-assign]


def main(folder: Path | None, kill_in: int | None) -> None:
    if kill_in is not None:
        die_in_step(kill_in)
    trained = finetune(
        bars(),
        ModelOptions("mobilenet_v3_small", "none", 32),
        TrainOptions("full", epochs=4, lr=3e-3, batch_size=8, dropout=0.3, precision="fp32", cache=False),
        keeping=Keeping(folder, resume=folder is not None and (folder / "snapshot.pt").exists()),
    )
    print(trained.checkpoint.sha256)


if __name__ == "__main__":
    alone = sys.argv[2:] == ["alone"]
    main(None if alone else Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] and not alone else None)
