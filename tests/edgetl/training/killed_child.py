"""A training in a process of its own: goes on where it was, and prints the SHA-256 of its weights.

``killed_child.py FOLDER [alone | kill N | term N]``: ``alone`` keeps no state; ``kill`` and ``term`` send it SIGKILL or
SIGTERM in its N-th step.
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

from edgetl.recipe import ModelOptions  # noqa: E402
from edgetl.training.finetune import finetune  # noqa: E402
from edgetl.training.options import TrainOptions  # noqa: E402
from edgetl.training.resume import Interrupted, Keeping  # noqa: E402
from edgetl.training.stepper import Stepper  # noqa: E402
from tests.zoo import TinyNet, as_backbone  # noqa: E402


def signal_in_step(number: signal.Signals, n: int) -> None:
    """A signal to this very process after the gradients of its `n`-th step, before the step is done."""
    right, done = Stepper._gradients, 0

    def gradients(self: Stepper, *given: Any) -> Any:
        nonlocal done
        done += 1
        found = right(self, *given)
        if done == n:
            os.kill(os.getpid(), number)
        return found

    Stepper._gradients = gradients  # type: ignore[method-assign]


def main(folder: Path | None) -> None:
    """Train from the start, or on from what `folder` has, to the end."""
    options = TrainOptions(
        "full", epochs=4, lr=3e-3, batch_size=8, dropout=0.3, precision="fp32", cache=False, device="cpu"
    )
    keeping = Keeping(folder, resume=folder is not None and (folder / "snapshot.pt").exists())
    try:
        with as_backbone("tinynet", TinyNet) as network:
            trained = finetune(bars(), ModelOptions(network, "none", 32), options, keeping=keeping)
    except Interrupted as interruption:
        print(f"interrupted: {interruption}")
        return
    print(trained.checkpoint.sha256)


if __name__ == "__main__":
    words = sys.argv[2:]
    if words[:1] in (["kill"], ["term"]):
        signal_in_step({"kill": signal.SIGKILL, "term": signal.SIGTERM}[words[0]], int(words[1]))
    main(None if words == ["alone"] else Path(sys.argv[1]))
