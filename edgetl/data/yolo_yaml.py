"""``data.yaml`` of a data set in YOLO's format: where its splits are, and what its classes are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgetl.data.folders import label_name
from edgetl_runtime.errors import DataError, MissingDependency
from edgetl_runtime.files import read_regular

__all__ = ["YOLO_YAML", "read_yolo_yaml"]

YOLO_YAML = ("data.yaml", "dataset.yaml", "data.yml")
"""What the file is called."""
_LARGEST = 2**24  # bytes
_NOTHING = ("", "null", "~")
_NAMES = "names: [first, second]"


def read_yolo_yaml(file: Path) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The keys of the file, and the names of its classes.

    Args:
        file: Of one of the names `YOLO_YAML`, or any other.

    Returns:
        Every key with its texts: of a list many, of a plain value one, else none. And the names of the classes by
        their numbers; there may be none.

    Raises:
        DataError: It cannot be read, it is no YAML, or its names are none.
        MissingDependency: PyYAML is not installed.
    """
    root = _root(file)
    if root is None:
        return {}, ()
    if root.id != "mapping":
        raise DataError(f"{file}:1: there are no keys", fix=_NAMES)
    keys: dict[str, list[str]] = {}
    names: tuple[str, ...] = ()
    for key, value in root.value:
        if key.value == "names":
            names = tuple(map(label_name, _names(value, file)))
        elif key.id == "scalar":
            keys[str(key.value)] = _texts(value)
    return keys, names


def _root(file: Path) -> Any:
    """The node around all of it, None where there is nothing. Its ``id`` says what a node is, which its type hints do
    not know."""
    try:
        import yaml
    except ImportError:
        raise MissingDependency("PyYAML", needed_for=f"reading {file}", extra="yaml") from None
    try:
        # Nodes, not values: they know their line, and a class that is called "no" or "1e3" stays a text.
        return yaml.compose(read_regular(file, limit=_LARGEST).decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}", fix="save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}", fix="check the file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(file) if mark is None else f"{file}:{mark.line + 1}"
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{where}: no YAML: {what:.200}", fix="mend the line, or write the file anew") from None
    except RecursionError:
        raise DataError(f"{file} is nested too deeply", fix=_NAMES) from None


def _texts(node: Any) -> list[str]:
    parts = node.value if node.id == "sequence" else [node]
    return [str(part.value) for part in parts if part.id == "scalar" and part.value not in _NOTHING]


def _names(node: Any, file: Path) -> list[str]:
    """``[a, b]``, ``{0: a, 1: b}``, or the same with a line each."""
    if node.id == "sequence":
        return [_name(part, file) for part in node.value]
    if node.id == "mapping":
        numbered: dict[int, str] = {}
        for key, value in node.value:
            if not (key.id == "scalar" and key.value.isdecimal()):
                raise DataError(f"{file}:{_line(key)}: not the number of a name: {_shown(key)}", fix=_NAMES)
            if int(key.value) in numbered:
                raise DataError(f"{file}:{_line(key)}: the number {key.value} has two names", fix="0, 1, 2 and so on")
            numbered[int(key.value)] = _name(value, file)
        if sorted(numbered) != list(range(len(numbered))):
            raise DataError(f"{file}:{_line(node)}: the numbers of the names have gaps", fix="0, 1, 2 and so on")
        return [numbered[number] for number in range(len(numbered))]
    if node.value in _NOTHING:
        return []
    raise DataError(f"{file}:{_line(node)}: names is {node.value!r:.80}, not a list", fix=_NAMES)


def _name(node: Any, file: Path) -> str:
    if node.id != "scalar" or not node.value.strip():
        raise DataError(f"{file}:{_line(node)}: not a name: {_shown(node)}", fix=_NAMES)
    return str(node.value)


def _shown(node: Any) -> str:
    """Never what is inside of a list: with anchors a few lines are a text without end."""
    return f"{node.value!r:.80}" if node.id == "scalar" else f"a {node.id}"


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
