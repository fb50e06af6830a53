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
    # Both strict, where json.loads lets halves of surrogate pairs through.
    content = text.encode() if isinstance(text, str) else text
    text = content.decode(json.detect_encoding(content))
    raw = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    if "\\u" in text:  # here they may be escaped
        json.dumps(raw, ensure_ascii=False).encode()
    _check_depth(raw)
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
        inner = [arg for arg in args if arg is not type(None)]
        # A number, a text or a list, whichever stands there.
        wanted = tuple if isinstance(value, list) else type(value)
        fitting = [arg for arg in inner if (typing.get_origin(arg) or arg) is wanted]
        return decode((fitting or inner)[0], value, where)
    if kind is typing.Any:
        return value
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
        return (
            value
            if args[1] is typing.Any
            else {key: decode(args[1], item, f"{where}: {key}") for key, item in value.items()}
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise _mismatch(where, "a number", value) from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _mismatch(where, "a number" if kind is float else kind.__name__, value)
    return value


def _decode_all(kind: Any, values: list[Any], where: str) -> tuple[Any, ...]:
    make: Callable[..., Any] = kind
    fields = _fields(make) if dataclasses.is_dataclass(kind) else ()
    if fields and all(annotation is str for _, annotation, _ in fields) and {dict} >= set(map(type, values)):
        # The labels: a thousand of two strings each. What is not just that goes the long way, which says why.
        columns = [[value.get(name) for value in values] for name, _, _ in fields]
        if all({str} >= set(map(type, column)) for column in columns):
            return tuple(map(make, *columns))
    return tuple(decode(kind, value, f"{where}[{i}]") for i, value in enumerate(values))


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


@functools.cache  # a dozen classes share most of them
def _fields(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Of a dataclass: name, annotation, and whether it must be there."""
    annotations = typing.get_type_hints(kind)
    return tuple(
        (
            item.name,
            annotations[item.name],
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(kind)
    )


def _mismatch(where: str, wanted: str, value: Any) -> BundleError:
    return BundleError(f"{where}: expected {wanted}, found {value!r:.60}", fix="export the bundle again")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.20} is too large a number")
    return number


def _check_depth(raw: Any) -> None:
    """Raises `ValueError` when `raw` is nested deeper than anything should meet."""
    level = [raw]
    for _ in range(_DEEPEST):
        objects = [item.values() for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        level = [part for parts in (*objects, *lists) for part in parts if type(part) in (dict, list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")
