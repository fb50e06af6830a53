"""Every option of the command line, the help that shows them, and what becomes of them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from edgetl.cli.arguments import recipe_of
from edgetl.cli.main import _parser, main
from edgetl.cli.options import _EXAMPLES
from edgetl.cli.parser import Parser
from edgetl.option import Option
from edgetl.recipe import Recipe, declared_options, read_recipe
from edgetl_runtime.errors import UsageError

Capture = pytest.CaptureFixture[str]

OPTIONS = Path(__file__).with_name("options.tsv")
"""Command, flags, attribute, default, kind of action and whether it is required: a change here is one for users."""


def commands() -> dict[str, Parser]:
    (found,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def rows(name: str, parser: Parser) -> list[str]:
    return [
        "\t".join(
            (
                name,
                ",".join(action.option_strings) or action.dest,
                action.dest,
                repr(action.default).replace(type(Path()).__name__, "Path"),
                type(action).__name__.strip("_").removesuffix("Action"),
                "required" if action.required else "",
            )
        )
        for action in parser._actions
        if action.dest != "help"
    ]


def shown(words: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    return capsys.readouterr().out


def flags(text: str) -> list[str]:
    """The flags of a help text, in their order."""
    lines = [line.strip() for line in text.partition("examples:")[0].splitlines()]
    return [line.split()[0].rstrip(",") for line in lines if line.startswith("-")]


def test_every_option_is_there_as_it_was() -> None:
    found = [row for name, parser in commands().items() for row in rows(name, parser)]
    assert sorted(found) == sorted(OPTIONS.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("command", ["run", "train", "export", "lr-range"])
def test_a_newcomer_sees_about_a_dozen(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown([command, "-h"], capsys)
    assert 5 <= len(flags(text)) <= 15
    assert len(text.splitlines()) <= 50
    assert max(map(len, text.splitlines())) < 80
    assert f"more options: edgetl {command} -h --all" in text


def test_what_a_run_shows(capsys: Capture) -> None:
    text = shown(["run", "-h"], capsys)
    assert {"--data", "--out", "--backbone", "--targets", "--precisions", "--gate"} <= set(flags(text))
    assert not {"--layer-decay", "--ranges", "--ema", "--precision"} & set(flags(text))
    assert text.count("\n  edgetl run ") == 2
    assert " ".join(text.split()).count("(default: ") >= 6


@pytest.mark.parametrize(
    "words",
    [["-h", "--all"], ["--all", "-h"], ["-h", "all"], ["--help", "--all"], ["--help", "all"]],
    ids=" ".join,
)
def test_both_spellings_show_the_rest(words: list[str], capsys: Capture) -> None:
    every = {row.split("\t")[1].partition(",")[0] for row in rows("run", commands()["run"])} - {"--precision"} | {"-h"}
    text = shown(["run", *words], capsys)
    assert set(flags(text)) == every
    assert "more options" not in text


@pytest.mark.parametrize("words", [["help", "run", "all"], ["help", "run", "--all"]], ids=" ".join)
def test_help_is_a_command_too(words: list[str], capsys: Capture) -> None:
    assert shown(words, capsys) == shown(["run", "-h", "--all"], capsys)
    assert shown(words[:2], capsys) == shown(["run", "-h"], capsys)


def test_help_without_a_command_takes_all_too(capsys: Capture) -> None:
    assert shown(["-h", "--all"], capsys) == shown(["-h"], capsys)


def test_force_says_all_that_it_replaces() -> None:
    """The file of --write-gate, what --record wrote, and what --keep-reference keeps."""
    (force,) = (action for action in commands()["verify"]._actions if "--force" in action.option_strings)
    assert force.help is not None
    for what in ("--write-gate", "record", "the original's answers", "fewer photos"):
        assert what in force.help


def test_a_value_called_all_is_a_value() -> None:
    assert _parser().parse_args(["run", "--data", "all", "--out", "x"]).data == Path("all")


def test_a_misspelt_option_is_found_among_those_that_are_not_shown(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--layer-decy", "1"])
    assert "did you mean --layer-decay? edgetl run -h --all shows all" in capsys.readouterr().err


@pytest.mark.parametrize("line", [line for lines in _EXAMPLES.values() for line in lines])
def test_examples_parse_and_fit(line: str) -> None:
    _parser().parse_args(shlex.split(line.partition(" > ")[0])[1:])
    assert len(f"  {line}") < 79


def example(option: Option) -> tuple[list[str], Any]:
    """Words of the command line for `option`, and the value that a recipe has then; it is not the default."""
    if option.kind is bool:
        return [option.flag], True
    if option.key == "image_size":
        return [option.flag, "64x48"], (64, 48)
    if option.key in ("mean", "std"):
        return ["--mean", "0.5, 0.25, 0.125", "--std", "0.5, 0.25, 0.125"], (0.5, 0.25, 0.125)
    if option.kind is tuple:
        return [option.flag, "a, b"], ("a", "b")
    if option.key == "batch":
        return [option.flag, "free"], "free"
    texts: dict[type, tuple[str, Any]] = {int: ("7", 7), float: ("0.25", 0.25), Path: ("a/b", Path("a/b"))}
    text, value = texts.get(option.kind, ("", ""))
    if option.kind is str:
        text = {"strategy": "full"}.get(option.key) or next((c for c in option.choices if c != option.default), "cpu")
        value = text
    return [option.flag, text], value


@pytest.mark.parametrize(
    ("section", "option"),
    [(name, option) for name, options in declared_options().items() for option in options if option.flag],
    ids=lambda value: value.flag if isinstance(value, Option) else value,
)
def test_every_flag_arrives_in_the_recipe(section: str, option: Option) -> None:
    words, value = example(option)
    recipe = recipe_of(_parser().parse_args(["run", "--out", "x", *words]))
    assert getattr(getattr(recipe, section), option.name) == value
    assert value != option.default


@pytest.mark.parametrize(
    ("section", "text", "words"),
    [
        ("train", "epochs = 0", ["--epochs", "0"]),
        ("train", 'augment = "simlar"', ["--augment", "simlar"]),
        ("train", "ema = 1.0", ["--ema", "1"]),
        ("train", 'train_precision = "int8"', ["--train-precision", "int8"]),
        ("model", "image_size = 0", ["--image-size", "0"]),
        ("export", "max_drop = 1", ["--max-drop", "1"]),
        ("export", "distill_minutes = inf", ["--distill-minutes", "inf"]),
        ("verify", "threads = 0", ["--threads", "0"]),
    ],
)
def test_recipe_and_command_line_say_the_same(section: str, text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f"[{section}]\n{text}\n")
    with pytest.raises(UsageError) as of_file:
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(UsageError) as of_words:
        recipe_of(_parser().parse_args(["run", "--out", "x", *words]))
    assert of_file.value.what.partition(": ")[2] == of_words.value.what.partition(": ")[2]
    assert of_file.value.fix == of_words.value.fix


def test_without_options_a_recipe_is_the_default_one() -> None:
    assert recipe_of(_parser().parse_args(["run", "--out", "x"])) == Recipe()
