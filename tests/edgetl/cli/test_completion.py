"""Tab completion: the scripts, and what the shells that are here make of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgetl.cli.completion import SHELLS, completion
from edgetl.cli.main import _parser, main
from edgetl.recipe import declared_options

BACKBONES = {"--backbone": ("mobilenet_v2", "resnet18"), "--backbones": ("mobilenet_v2", "resnet18")}


def script(shell: str) -> str:
    return completion(_parser(), shell, BACKBONES)


def asked_of_bash(words: list[str], tmp_path: Path) -> list[str]:
    """What bash offers for the last of `words`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not here")
    (tmp_path / "edgetl.bash").write_text(script("bash"), encoding="utf-8")
    program = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _edgetl; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        [bash, "-c", program, str(tmp_path / "edgetl.bash"), *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("edgetl comp", ["compare", "completion"]),
        ("edgetl help ver", ["verify"]),
        ("edgetl run --max", ["--max-drop"]),
        ("edgetl verify b.edgetl --write", ["--write-gate"]),
        ("edgetl run --quantize ", ["ptq", "distill", "qat"]),
        ("edgetl run --quantize = d", ["distill"]),
        ("edgetl run --quantize =", ["ptq", "distill", "qat"]),
        ("edgetl run --strategy la", ["last:"]),
        ("edgetl export --targets onnx,t", ["onnx,tflite"]),
        ("edgetl export --precisions int", ["int8"]),
        ("edgetl train --backbone res", ["resnet18"]),
        ("edgetl compare --backbones mobilenet_v2,r", ["mobilenet_v2,resnet18"]),
        ("edgetl completion ", ["bash", "zsh", "fish"]),
        ("edgetl run --data ", []),
        ("edgetl inspect flow", []),
    ],
)
def test_what_bash_offers(words: str, offered: list[str], tmp_path: Path) -> None:
    assert asked_of_bash(words.split(" "), tmp_path) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_and_every_choice_is_there(shell: str) -> None:
    text = script(shell)
    for option in (option for options in declared_options().values() for option in options if option.flag):
        assert (f"-l {option.flag[2:]} " if shell == "fish" else option.flag) in text
        assert " ".join(option.choices) in text
    assert "former" not in text
    assert "%%" not in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_its_script(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not here")
    (tmp_path / "script").write_text(script(shell), encoding="utf-8")
    done = subprocess.run([program, "-n", tmp_path / "script"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_apostrophes_and_brackets_of_a_help_stay_text() -> None:
    text = script("zsh")
    assert "what suits" not in text
    assert "backbone'\\''s own, often 224)" in text
    assert "path,label\\[,split\\]" in text


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "complete -c edgetl -n '__fish_seen_subcommand_from run' -l epochs" in said.out
    assert "mobilenet_v3_large" in said.out
