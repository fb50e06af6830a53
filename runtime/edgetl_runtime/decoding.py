"""JSON as instances of frozen dataclasses, by their annotations: wrong, missing and impossible values are errors."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from edgetl_runtime.errors import BundleError

__all__ = ["decode", "parse"]

_DEEPEST = 64


def parse(text: str | bytes) -> Any:
    """JSON as Python has it. Raises `ValueError` or `RecursionError`.

    Refused are also what is not of JSON (NaN, Infinity), numbers beyond float64, halves of surrogate pairs, and nesting
    of more than 64.
    """
    raw = json.loads(text, parse_constant=_no_number)
    _check_values(raw)
    return raw


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value` (from JSON) as an instance of the annotation `kind`: dataclasses, tuples, unions with None, scalars.

    `where` names the value in errors. Raises `BundleError` when a field is missing or of another type.
    """
    if kind is type(value) and kind in (str, int):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return decode(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mismatch(where, "a list", value)
        if args[-1] is Ellipsis:
            return _decode_all(args[0], value, where)
        if len(args) != len(value):
            raise _mismatch(where, f"{len(args)} items", value)
        return tuple(decode(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _mismatch(where, "a number", value) from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _mismatch(where, kind.__name__, value)
    return value


def _decode_all(kind: Any, values: list[Any], where: str) -> tuple[Any, ...]:
    make: Callable[..., Any] = kind
    fields = _fields(make) if dataclasses.is_dataclass(kind) else ()
    if not fields or any(annotation is not str for _, annotation, _ in fields):
        return tuple(decode(kind, value, f"{where}[{i}]") for i, value in enumerate(values))
    # The labels: a thousand of two strings each. What is not just that goes the long way, which says why.
    names = [name for name, _, _ in fields]
    decoded = []
    for i, value in enumerate(values):
        texts = [value.get(name) for name in names] if type(value) is dict else [None]
        plain = all(type(text) is str for text in texts)
        decoded.append(make(*texts) if plain else decode(kind, value, f"{where}[{i}]"))
    return tuple(decoded)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(where, "an object", value)
    found: dict[str, Any] = {}
    for name, annotation, required in _fields(kind):
        if name in value:
            found[name] = decode(annotation, value[name], f"{where}: {name}")
        elif required:
            raise BundleError(f"{where}: field {name!r} is missing", fix="export the bundle again")
    return kind(**found)


@functools.cache  # a thousand labels would ask a thousand times
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Of a dataclass: name, annotation, and whether it must be there."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (
            item.name,
            hints[item.name],
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(kind)
    )


def _mismatch(where: str, wanted: str, value: Any) -> BundleError:
    return BundleError(f"{where}: expected {wanted}, found {value!r:.60}", fix="export the bundle again")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _check_values(raw: Any) -> None:
    """What JSON's grammar lets through and nothing should meet. Raises `ValueError`."""
    level = [raw]
    for _ in range(_DEEPEST):
        strings = [item for item in level if isinstance(item, str)]
        "".join(strings).encode()  # UnicodeEncodeError, a ValueError: half of a surrogate pair, which cannot be printed
        if any(isinstance(item, float) and not math.isfinite(item) for item in level):
            raise ValueError("a number is too large")
        objects = [(*item, *item.values()) for item in level if isinstance(item, dict)]
        lists = [item for item in level if isinstance(item, list)]
        level = [part for parts in (*objects, *lists) for part in parts]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")
