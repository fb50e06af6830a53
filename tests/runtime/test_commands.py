"""How commands are parsed and how they end, whatever they raise and wherever their output goes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetl_runtime.cli import main
from edgetl_runtime.commands import CommandParser, run_command, split_names
from edgetl_runtime.errors import DataError

Capture = pytest.CaptureFixture[str]
RUN = [sys.executable, "-m", "edgetl_runtime.cli"]


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("no photos", fix="put some there"), 2, "prog: error: no photos\n  fix: put some there\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted\n"),
        (KeyboardInterrupt("half is kept"), 130, "prog: interrupted; half is kept\n"),
    ],
)
def test_what_a_person_can_act_on_is_one_message(error: BaseException, code: int, said: str, capsys: Capture) -> None:
    assert run_command("prog", raising(error)) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "error", [ValueError("x\x1b[2J\nprog: error: y"), KeyError("a"), OSError(28, "x"), MemoryError()]
)
def test_a_bug_has_a_code_of_its_own(error: Exception, capsys: Capture) -> None:
    assert run_command("prog", raising(error)) == 70
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("prog: this is a bug of edgetl (exit code 70)")
    assert "\x1b" not in "".join(lines)
    assert not any(line.startswith("prog: error") for line in lines)


def test_the_verdict_and_the_parsers_code_go_through() -> None:
    assert [run_command("prog", lambda code=code: code) for code in (0, 1, 2)] == [0, 1, 2]  # type: ignore[misc]
    with pytest.raises(SystemExit) as caught:
        run_command("prog", raising(SystemExit(2)))
    assert caught.value.code == 2


def test_names_may_have_spaces_between() -> None:
    assert split_names("a, b ,c") == ["a", "b", "c"]


def parser() -> CommandParser:
    found = CommandParser(prog="prog", meant={"convert": ("export", "did you mean prog export?")})
    commands = found.add_subparsers(metavar="COMMAND", required=True)
    export = commands.add_parser("export", meant={"--int8": ("--precisions", "did you mean --precisions int8?")})
    export.add_argument("--int8-safe", action="store_true")
    export.add_argument("--precisions")
    export.add_argument("--engine", choices=("onnx", "tflite"))
    export.add_argument("--least", type=float)
    export.add_argument("model", nargs="*")
    commands.add_parser("verify").add_argument("--data", required=True)
    return found


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["export", "--int8"], ["there is no option --int8\n", "did you mean --precisions int8?"]),
        (["export", "--int8=yes"], ["there is no option --int8\n"]),
        (["export", "--prec", "int8"], ["there is no option --prec\n", "did you mean --precisions?"]),
        (["export", "--precison", "int8"], ["did you mean --precisions?"]),
        (["export", "-q"], ["there is no option -q\n", "prog export -h"]),
        (["verify", "--int8"], ["there is no option --int8\n", "prog verify -h"]),
        (["verify", "--dat", "x"], ["there is no option --dat\n", "did you mean --data?"]),
        (["exprot", "x"], ["there is no command 'exprot'\n", "did you mean export?"]),
        (["convert", "x"], ["there is no command 'convert'\n", "did you mean prog export?"]),
        (["--vers"], ["there is no option --vers\n"]),
        (["export", "--engine", "tflit"], ["'tflit' is not known", "did you mean 'tflite'?"]),
        (["help", "exprot"], ["did you mean export?"]),
        (["\x1b[2Jfly"], ["there is no command '\\x1b[2Jfly'"]),
    ],
)
def test_what_is_not_there_is_told_with_what_is(words: list[str], parts: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    for part in parts:
        assert part in said
    assert len(said.splitlines()) <= 3


def test_values_are_no_options() -> None:
    found = parser().parse_args(["export", "--least", "-0.5", "-", "--", "--int8"])
    assert (found.least, found.model) == (-0.5, ["-", "--int8"])


@pytest.mark.parametrize(("words", "code"), [([], 2), (["help"], 0), (["-h"], 0), (["help", "export"], 0)])
def test_help(words: list[str], code: int, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == code
    captured = capsys.readouterr()
    said = captured.err if code else captured.out
    assert said.startswith("usage: prog export" if "export" in words else "usage: prog [-h]")


@pytest.fixture
def predict(pristine_bundle: Path, tmp_path: Path, red_photo: bytes) -> list[str]:
    photo = tmp_path / os.fsdecode(b"caf\xe9.png")
    photo.write_bytes(red_photo)
    return [*RUN, "predict", str(pristine_bundle), str(photo), "--json", str(tmp_path / "out.json")]


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        pytest.param(">/dev/full", 2, "cannot write to standard output: No space left on device", marks=FULL),
        (">&-", 2, "cannot write to standard output: Bad file descriptor"),
        (">&- <&-", 2, "cannot write to standard output"),
        (">/dev/null 2>&-", 0, ""),
        pytest.param("2>/dev/full", 0, "", marks=FULL),
    ],
)
def test_wherever_the_output_goes_the_work_is_kept(
    predict: list[str], tmp_path: Path, redirection: str, code: int, said: str
) -> None:
    command = ["bash", "-c", f'"$@" {redirection}', "bash", *predict]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    written = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert r"caf\\xe9.png" in written


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437"])
def test_a_console_that_cannot_encode(predict: list[str], encoding: str, tmp_path: Path, red_photo: bytes) -> None:
    photo = tmp_path / "花crème.png"
    photo.write_bytes(red_photo)
    done = subprocess.run(
        [*predict[:-2], str(photo)], env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u82b1cr" in done.stdout
    assert rb"caf\xe9.png" in done.stdout


def test_notes_do_not_get_into_the_result_where_there_is_no_stderr(predict: list[str]) -> None:
    command = ["bash", "-c", '"$@" 2>&-', "bash", *predict[:-1], "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("{")
    assert done.stdout.rstrip().endswith("}")


@pytest.mark.parametrize("words", [["edgetl_runtime.cli"], ["edgetl.cli.main"], ["edgetl"]])
@pytest.mark.parametrize("optimized", ["", "1", "2"])
def test_without_docstrings(words: list[str], optimized: str) -> None:
    command = [sys.executable, "-m", *words, "-h"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONOPTIMIZE": optimized}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout


def test_info_without_docstrings(pristine_bundle: Path) -> None:
    done = subprocess.run([*RUN, "info", str(pristine_bundle)], env=os.environ | {"PYTHONOPTIMIZE": "2"}, timeout=120)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["gone\x1b[31m", "gone\nedgetl-run: error: other", "gone\u202ex"])
def test_names_of_bundles_are_shown_escaped(name: str, capsys: Capture) -> None:
    assert main(["info", name]) == 2
    said = capsys.readouterr().err
    assert sum(line.startswith("edgetl-run: error") for line in said.splitlines()) == 1
    assert "\x1b" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ("--out=~/x", "/home/me/x"),
        ("--out=~", "/home/me"),
        ("--out=a~/x", "a~/x"),
        ("--out=~me", "~me"),
        ("~/x", "~/x"),
    ],
)
def test_a_home_folder_behind_an_equals_sign(word: str, means: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells replace a ``~`` only at the beginning of a word."""
    monkeypatch.setenv("HOME", "/home/me")
    parser = CommandParser(prog="prog")
    parser.add_argument("--out")
    parser.add_argument("rest", nargs="*")
    found = parser.parse_args([word])
    assert (found.out or found.rest[0]) == means
