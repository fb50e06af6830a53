"""Kill writing at random moments: is there always a whole old folder or a whole new one, and nothing else left?

    python tests/fuzz/killed_writing.py [--stagings 500] [--exports 100] [--verifies 100] [--seed 0]

First the staging alone, over a folder of five files, with the kernel's exchange and without. Then ``edgetl export
--force`` of a small untrained network over the bundle of an earlier export, then ``edgetl verify --record`` of it over
the report of an earlier one. SIGKILL and SIGTERM in turn; the moments are spread over the time that one takes, half of
them over its end. What is wrong is said at once. The exit code is 1 when something was.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime")]

from edgetl.verify.report import Report  # noqa: E402
from edgetl_export.staging import check_destination  # noqa: E402
from edgetl_runtime import open_bundle  # noqa: E402
from edgetl_runtime.errors import EdgetlError, OutputError  # noqa: E402
from edgetl_runtime.verification import read_verified  # noqa: E402
from edgetl_runtime.writing import write_file  # noqa: E402
from tests.export.staging_child import FILES, write  # noqa: E402

__all__ = ["kill_commands", "kill_stagings", "main", "serve"]

CHILD = ROOT / "tests" / "export" / "staging_child.py"
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
OPTIONS = [
    "--backbone",
    "squeezenet1_1",
    "--image-size",
    "32",
    "--targets",
    "onnx",
    "--precisions",
    "fp32",
    "--force",
]


def names(folder: Path) -> list[str]:
    """What lies in it, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def next_start(out: Path, holds: str) -> None:
    """What the next export does first."""
    try:
        check_destination(out, holds=holds)
    except OutputError:
        return
    raise AssertionError(f"{out} is gone")


def kill_stagings(folder: Path, n: int, *, plain: bool, rng: random.Random) -> list[str]:
    """`n` kills of a process that only stages; what was wrong."""
    out, wrong = folder / "out", []
    write(out, "0")
    command = [sys.executable, str(CHILD), str(out), *(["plain"] if plain else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:3])}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for turn in range(n):
            child.stdin.write("\n")
            worker = int(child.stdout.readline())
            time.sleep(rng.uniform(0, 0.03))
            os.kill(worker, SIGNALS[turn % 2])
            child.stdout.readline()
            try:
                next_start(out, "manifest")
                assert len({(out / name).read_text() for name in FILES}) == 1, "files of two folders"
                assert names(folder) == ["out"], f"left behind: {names(folder)}"
            except (AssertionError, OSError) as error:
                wrong.append(f"staging {turn}: {error!r}")
        child.stdin.close()
    return wrong


def prepare(folder: Path) -> tuple[list[str], list[str]]:
    """Photos and weights in `folder`; the words of an export to ``folder/out/b.edgetl``, and of verifying that."""
    import torch
    import torchvision

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            picture = Image.fromarray(rng.integers(0, 256, (48, 60, 3), np.uint8))
            picture.save(folder / "photos" / label / f"{number}.png")
    (folder / "labels.txt").write_text("a\nb\n")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), folder / "w.pth")
    photos, out = str(folder / "photos"), str(folder / "out" / "b.edgetl")
    export = ["export", str(folder / "w.pth"), *OPTIONS, "--labels", str(folder / "labels.txt")]
    verify = ["verify", out, "--data", photos, "--record", "--force"]
    return [*export, "--calibration", photos, "--out", out], verify


def check_ending(how: signal.Signals, code: int, said: str) -> None:
    """AssertionError for a program that ended otherwise than well, or by what killed it."""
    assert code in (0, -how, 128 + how), f"exit code {code}: {said}"
    assert "Traceback" not in said, said


def check_exported(out: Path, how: signal.Signals, code: int) -> None:
    """AssertionError, OSError or EdgetlError for a bundle that is not whole, or not alone, after a kill."""
    if how == signal.SIGTERM and code == 128 + how:
        assert names(out.parent) == [out.name], f"left behind by SIGTERM: {names(out.parent)}"
    next_start(out, "manifest.json")
    bundle = open_bundle(out)
    for variant in bundle.manifest.variants:
        bundle.session(variant.id).close()
    assert names(out.parent) == [out.name], f"left behind: {names(out.parent)}"


def check_recorded(out: Path, how: signal.Signals, code: int) -> None:
    """The same for the bundle's report; nothing else of the bundle may have changed."""
    report = out / "report.json"
    content = report.read_bytes()
    Report.from_json(content, where=str(report))
    read_verified(open_bundle(out))
    if how == signal.SIGTERM and code == 128 + how:
        assert not hidden(out), f"left behind by SIGTERM: {hidden(out)}"
    write_file(report, content)  # what the next one does
    assert not hidden(out), f"left behind: {hidden(out)}"


def hidden(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.startswith(".") or name.endswith(".part")]


def serve(words: list[str]) -> None:
    """For every line on stdin, fork a process that runs ``edgetl WORDS``: print its number, and then its exit code."""
    import edgetl_export.targets.onnx_file  # noqa: F401 - once for all
    from edgetl.cli.main import main

    for _ in sys.stdin:
        child = os.fork()
        if not child:
            code = 99
            try:
                os.dup2(2, 1)  # what it prints is not for who counts
                code = main(words)
            except BaseException:  # noqa: BLE001 - it must not become a second server
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def kill_commands(
    folder: Path, words: list[str], n: int, check: Callable[[Path, signal.Signals, int], None], rng: random.Random
) -> list[str]:
    """`n` kills of ``edgetl WORDS``, which writes ``folder/out/b.edgetl``; what was wrong, which is printed too."""
    wrong, codes = [], dict[int, int]()
    environment = {**os.environ, "EDGETL_CACHE": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path[:3])}
    out, errors = folder / "out" / "b.edgetl", folder / "errors.txt"
    command = [sys.executable, __file__, "--serve", *words]
    pipe, seconds = subprocess.PIPE, 0.0
    with (
        errors.open("wb") as log,
        subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=log, text=True, bufsize=1, cwd=folder
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        for turn in range(-2, n):
            before, how = errors.stat().st_size, SIGNALS[turn // 2 % 2]
            server.stdin.write("\n")
            worker = int(server.stdout.readline())
            start = time.monotonic()
            if turn >= 0:  # two come to their end
                time.sleep(rng.uniform(0.0, 1.0) * seconds if turn % 2 else rng.uniform(0.8, 1.1) * seconds)
                with suppress(ProcessLookupError):
                    os.kill(worker, how)
            code = int(server.stdout.readline())
            seconds = time.monotonic() - start if code == 0 else seconds
            codes[code] = codes.get(code, 0) + 1
            try:
                said = errors.read_bytes()[before:].decode()
                assert turn >= 0 or code == 0, f"it does not even work: {said}"
                check_ending(how, code, said)
                check(out, how, code)
            except (AssertionError, OSError, EdgetlError) as error:
                wrong.append(f"{words[0]} {turn}, {how.name}, exit code {code}: {error!r}")
                print(wrong[-1], flush=True)
            if turn % 10 == 9:
                print(f"{words[0]}: {turn + 1} of {n}, by exit code {codes}, {len(wrong)} wrong", flush=True)
        server.stdin.close()
    return wrong


def main() -> int:
    """Run everything and say what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stagings", type=int, default=500)
    parser.add_argument("--exports", type=int, default=100)
    parser.add_argument("--verifies", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2:])
        return 0
    given = parser.parse_args()
    rng, wrong = random.Random(given.seed), []
    for plain in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found = kill_stagings(Path(folder), given.stagings, plain=plain, rng=rng)
            print(f"{given.stagings} stagings{' without exchange' if plain else ''}: {len(found)} wrong", flush=True)
            wrong += found
    if given.exports or given.verifies:
        with tempfile.TemporaryDirectory() as folder:
            export, verify = prepare(Path(folder))
            wrong += kill_commands(Path(folder), export, given.exports, check_exported, rng)
            if given.verifies:
                wrong += kill_commands(Path(folder), verify, given.verifies, check_recorded, rng)
    print(f"{len(wrong)} wrong" if wrong else "always a whole old or a whole new one, and nothing left behind")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
