"""Text of others on the screen and in files: nothing in it commands, nothing in it breaks a file."""

from __future__ import annotations

import json
import os

import pytest

from edgetl_export.labels_file import check_label_names
from edgetl_runtime.errors import DataError, MissingDependency, UsageError
from edgetl_runtime.escaping import encodable, json_on_screen, json_value, message, printable

COMMANDS = {
    "\x1b]52;c;YQ==\x07": r"\x1b]52;c;YQ==\x07",
    "a\nedgetl: error: b": r"a\nedgetl: error: b",
    "\r\x08\x7f": r"\r\x08\x7f",
    "\x9b31m": r"\x9b31m",
    "\u202egnp.exe": r"\u202egnp.exe",
    "\u2066a\u2069": r"\u2066a\u2069",
    "a\u2028b": r"a\u2028b",
    os.fsdecode(b"caf\xe9.png"): r"caf\xe9.png",
    "\ud83d": r"\ud83d",
}
HARMLESS = ["", "crème", "花", "👩‍🔬", "a b", "می‌خواهم", "1 200", "C:\\x"]


@pytest.mark.parametrize(("text", "shown"), COMMANDS.items(), ids=COMMANDS.values())
def test_commands_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_commands_nothing_stays(text: str) -> None:
    assert printable(text) == encodable(text) == text


def test_some_may_be_kept() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize(("text", "written"), [(os.fsdecode(b"caf\xe9"), r"caf\xe9"), ("\ud800a\n", "\\ud800a\n")])
def test_every_name_can_be_written(text: str, written: str) -> None:
    assert encodable(text) == written
    written.encode()


def test_json_takes_whatever_there_is() -> None:
    found = json_value({"a\udce9": (float("nan"), float("-inf"), "b\udce9", 1, None, True), 3: ["\x1b"]})
    assert found == {r"a\xe9": [None, None, r"b\xe9", 1, None, True], 3: ["\x1b"]}
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


def test_json_on_the_screen_is_the_same_json() -> None:
    value = {"name": "a\u202e\x9b\x1b\u2028 花"}
    shown = json_on_screen(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(shown) == value
    assert printable(shown, keep="\n") == shown


def test_no_line_of_a_message_looks_like_ours() -> None:
    error = UsageError("no bundle at a\nedgetl: error: b\n  fix: rm -rf /", fix="check\nthe path")
    assert str(error).splitlines() == [
        "no bundle at a",
        "    edgetl: error: b",
        "    fix: rm -rf /",
        "  fix: check",
        "    the path",
    ]
    assert message(str(error)) == str(error)
    assert error.what == "no bundle at a\nedgetl: error: b\n  fix: rm -rf /"
    assert "\n" not in str(MissingDependency("x", needed_for="a\x1b", extra="onnx"))


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "\ud83d", os.fsdecode("花".encode("euc-jp"))])
def test_labels_that_no_file_can_hold_are_refused(name: str) -> None:
    check_label_names(["crème", "a\nb"], "photos")
    with pytest.raises(DataError, match="photos has labels that cannot be written") as caught:
        check_label_names(["a", name], "photos")
    str(caught.value).encode()
