"""A program for others to kill: stages a folder over DESTINATION again and again, until somebody ends it.

    python staging_child.py DESTINATION [plain]

``plain`` does it as where folders cannot be exchanged. Each folder holds `FILES`, all of the same text. For every line
on stdin it forks a process that does it and prints its number, and then, when it is over, how it ended: so that
hundreds of kills are cheap.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgetl_export import renaming
from edgetl_export.staging import staged
from edgetl_runtime.termination import exit_code_of, terminable

FILES = ("manifest", "a", "b/c", "b/d", "b/e/f")


def write(folder: Path, text: str) -> None:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text * 1000)


def work(destination: Path) -> int:
    try:
        with terminable():
            print(os.getpid(), flush=True)
            number = 0
            while True:
                number += 1
                with staged(destination, holds="manifest", force=True) as folder:
                    write(folder, str(number))
    except KeyboardInterrupt as interruption:
        return exit_code_of(interruption)


def main() -> None:
    destination, *words = sys.argv[1:]
    if "plain" in words:
        renaming._system_call = lambda: None  # type: ignore[assignment]
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(work(Path(destination)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
