"""Does a variant's file run here at all? Tried in a process of its own: a file that kills its engine kills that alone.

Engines check files, but not everything: some end the process that loads or runs them. `try_variants` starts a child,
which loads each variant, runs it once on a grey image and says how that went; what it did not live to say is the
variant's fault. The child imports the runtime and the engines, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from edgetl_runtime.engines.devices import ANYWHERE
from edgetl_runtime.errors import EdgetlError, EngineError
from edgetl_runtime.frozen import dataclass, field

__all__ = ["Trials", "death", "ending", "main", "refusing", "try_variants"]

_SECONDS = 120.0
"""For one variant on the CPU; an accelerator may compile for minutes, and is given ten times as long."""

_PYTHONS = ("python", "pypy")
"""How a program is called that takes -m MODULE. Others embed Python: to start one is to start the application again."""


@dataclass(frozen=True)
class Trials:
    """How variants fared: ``died`` has by variant id the signal (or exit code) that ended its process, ``refused`` the
    error with which its engine declined. ``untried`` says why no process could be started, None when one could."""

    died: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    untried: str | None = None


def try_variants(
    places: Mapping[str, str | os.PathLike[str]],
    *,
    threads: int | None = None,
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    strict: bool = False,
    seconds: float | None = None,
) -> Trials:
    """Load and run each variant once, in a child process.

    `places` has by variant id the bundle (or model file) that it is in; the rest is as in `load`. One child tries all,
    and another one goes on where it died. A death need not be the fault of the variant at which it came: those tried
    by the same child are then tried once more, each by a child of its own.
    """
    limit = seconds or _SECONDS * (1 if device in ANYWHERE else 10)
    options = {"threads": threads, "device": device, "device_options": dict(device_options or {}), "strict": strict}
    found, waiting = Trials(), {id_: os.fspath(where) for id_, where in places.items()}
    try:
        while waiting:
            child, how = _try_in_one(waiting, options, limit)
            found.refused.update(child.refused)
            if child.begun is None:
                break
            tried = list(waiting)[: list(waiting).index(child.begun) + 1]
            found.died.update(_guilty({id_: waiting.pop(id_) for id_ in tried}, how, options, limit))
    except _NoChildError as error:
        return Trials(found.died, found.refused, untried=str(error))
    return found


def _guilty(tried: Mapping[str, str], how: str, options: Mapping[str, Any], limit: float) -> dict[str, str]:
    """Which of the variants that one child tried, the last of which it did not survive, end a child of their own.

    A file may damage memory and live to say so; the next one then dies of it. Where none dies alone it is the last.
    """
    *_, last = tried
    if len(tried) == 1:
        return {last: how}
    alone = {id_: _try_in_one({id_: where}, options, limit) for id_, where in tried.items()}
    return {id_: ended for id_, (child, ended) in alone.items() if child.begun is not None} or {last: how}


def death(variant_id: str, how: str) -> EngineError:
    """The error for a variant that ended its process like that."""
    return EngineError(
        f"variant {variant_id} ends the process that runs it: {how}, tried in a process of its own",
        fix="export the bundle again, or leave this variant out",
    )


def refusing(variant_id: str, how: str) -> Callable[..., NoReturn]:
    """In place of what opens a session of a variant that died: it raises that error."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise death(variant_id, how)

    return refuse


class _Child:
    """What one child said of the variants that it was given."""

    def __init__(self) -> None:
        self.ready = self.over = self.late = False
        self.begun: str | None = None
        self.refused: dict[str, str] = {}

    def listen(self, process: subprocess.Popen[bytes], said: IO[bytes], limit: float) -> None:
        """Read until it is over or the child is gone; it is ended when one answer takes longer than `limit` s."""

        def stop() -> None:
            self.late = True
            process.kill()

        while not self.over:
            timer = threading.Timer(limit, stop)
            timer.daemon = True
            timer.start()
            line = said.readline()
            timer.cancel()
            if not line.endswith(b"\n"):  # the end, maybe in the middle of a line
                break
            self._hear(json.loads(line))

    def _hear(self, message: Mapping[str, Any]) -> None:
        self.ready = True
        self.over = message.get("over", False)
        self.begun = message.get("begin")
        if message.get("refused") is not None:
            self.refused[message["done"]] = message["refused"]


def _try_in_one(places: Mapping[str, str], options: Mapping[str, Any], limit: float) -> tuple[_Child, str]:
    """What a child said that was to try all these, and how it ended. Raises `_NoChildError`."""
    program = Path(sys.executable or "").name.lower()
    if getattr(sys, "frozen", False) or not program.startswith(_PYTHONS):
        raise _NoChildError(f"this program is no Python that could start another one ({program or 'unknown'})")
    # -P: what lies in the current folder is no module of ours.
    command = [sys.executable, "-P", "-m", "edgetl_runtime.trial"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise _NoChildError(f"no process could be started: {error.strerror or error}") from error
    child = _Child()
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone already
            process.stdin.write(json.dumps({"variants": places, **options}).encode() + b"\n")
            process.stdin.close()
        child.listen(process, process.stdout, limit)
        if child.over:
            process.kill()  # it has said all: what it would still do is take its libraries down
    how = f"no answer in {limit:.0f} s" if child.late else ending(process.returncode)
    if not child.ready or (child.begun is None and not child.over):
        raise _NoChildError(f"the process that should try it did not start ({how})")
    return child, how


class _NoChildError(Exception):
    """Why no child could be started."""


def ending(code: int) -> str:
    """What a process's exit code says: the signal's name where there was one."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}" if 0 <= code < 256 else f"exit code {code & 0xFFFFFFFF:#x}"


def main() -> None:
    """The child: try what stands in the standard input, and say on what was the standard output how that went."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash that is expected leaves no core file
    # Engines print what they please: that goes nowhere.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(**message: object) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    say(ready=True)
    asked = json.loads(sys.stdin.buffer.readline())
    places = asked.pop("variants")
    for variant_id, where in places.items():
        say(begin=variant_id)
        say(done=variant_id, refused=_refusal(variant_id, where, asked))
    say(over=True)


def _refusal(variant_id: str, where: str, options: Mapping[str, Any]) -> str | None:
    """Load the variant, run it once, let it go. What its engine says against that, None when it ran."""
    import warnings

    import numpy as np

    from edgetl_runtime.bundle import open_bundle

    warnings.simplefilter("ignore")  # whoever loads it for use is told
    try:
        bundle = open_bundle(where)
        with bundle.session(variant_id, **options) as session:
            spec = session.inputs[0]
            session.run({spec.name: np.full([max(1, length) for length in spec.shape], 128, spec.dtype)})
    except EdgetlError as error:
        return error.what
    except Exception as error:  # noqa: BLE001 - a library that fails in Python does not end the process
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
