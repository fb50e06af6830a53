"""``dataclass(frozen=True)`` that is quick to define: classes share its methods, instead of compiling their own.

The standard library writes and compiles six methods for every class, which was two thirds of the time that it took to
import this package. All else is alike: `dataclasses.fields`, `replace` and `asdict`, comparing, hashing, pickling,
matching, and what `help` shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

if TYPE_CHECKING:
    import inspect
    from dataclasses import dataclass  # what type checkers and editors see

__all__ = ["dataclass", "field"]

_Class = TypeVar("_Class")
_set = object.__setattr__


def _frozen_dataclass(*, frozen: Literal[True]) -> Callable[[type[_Class]], type[_Class]]:
    """The decorator. ``frozen`` is there to be seen: these classes are never anything else."""

    def decorate(kind: type[_Class]) -> type[_Class]:
        made = dataclasses.dataclass(init=False, repr=False, eq=False)(kind)
        own = vars(made)
        start = _checked_init if hasattr(made, "__post_init__") else _init
        for name, method in {**_METHODS, "__init__": start}.items():
            # As in the standard library, a class keeps what it defines itself, but is frozen in any case.
            if name not in own or name in ("__setattr__", "__delattr__"):
                setattr(made, name, method)
        parameters: Any = own["__dataclass_params__"]
        parameters.init = parameters.repr = parameters.eq = parameters.frozen = frozen
        return made

    return decorate


def _init(self: Any, *args: Any, **named: Any) -> None:
    names = self.__match_args__
    if named or len(args) != len(names):
        args = _all_values(type(self), args, named)
    for name, value in zip(names, args, strict=False):  # equally many: strict only costs time
        _set(self, name, value)


def _checked_init(self: Any, *args: Any, **named: Any) -> None:
    _init(self, *args, **named)
    self.__post_init__()


def _all_values(kind: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """A value for every field, by position, by name or by default. Raises `TypeError` as a function would."""
    names = kind.__match_args__
    if len(args) > len(names):
        raise TypeError(f"{kind.__name__} takes {len(names)} values, {len(args)} were given")
    values = dict(zip(names, args, strict=False))
    for name in named:
        if name in values or name not in names:
            raise TypeError(f"{kind.__name__} got {'two values for' if name in values else 'an unknown'} {name!r}")
    values |= named
    for item in dataclasses.fields(kind):
        if item.name not in values:
            if item.default is not dataclasses.MISSING:
                values[item.name] = item.default
            elif item.default_factory is not dataclasses.MISSING:
                values[item.name] = item.default_factory()
            else:
                raise TypeError(f"{kind.__name__} needs a value for {item.name!r}")
    return tuple(values[name] for name in names)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__match_args__)


def _repr(self: Any) -> str:
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({values})"


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _no_change(self: Any, name: str, *_: Any) -> NoReturn:
    raise FrozenInstanceError(
        f"{name!r} of a {type(self).__name__} cannot be changed; dataclasses.replace makes another"
    )


class _Signature:
    """What `inspect.signature` and `help` show of a class: made when they ask."""

    def __get__(self, instance: object, kind: type) -> inspect.Signature:
        import inspect

        parameters = []
        for item in dataclasses.fields(kind):
            default = item.default
            if default is dataclasses.MISSING:
                made = item.default_factory is not dataclasses.MISSING
                default = item.default_factory if made else inspect.Parameter.empty
            kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(item.name, kinds, default=default, annotation=item.type))
        return inspect.Signature(parameters, return_annotation=None)


_METHODS: dict[str, Any] = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _no_change,
    "__delattr__": _no_change,
    "__signature__": _Signature(),
}

if not TYPE_CHECKING:
    dataclass = _frozen_dataclass
