"""What a person can act on.

::

    EdgetlError
    ├── UsageError          an option, a name or a combination of them
    ├── DataError           a data set: folders, labels, CSV files, splits
    │   └── ImageError      one image that cannot be read
    ├── CheckpointError     weights that are missing, damaged or of another architecture
    ├── BundleError         a bundle or model file that is damaged, incomplete or of a newer schema
    ├── EngineError         an engine that cannot load or run a variant
    ├── MissingDependency   a library that is not installed
    ├── ExportError         a target that could not be written
    └── OutputError         a destination that exists, is read-only or is full

Every one of them carries what is wrong, where, and the line that fixes it. Anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import Any

from edgetl_runtime.escaping import message

__all__ = [
    "BundleError",
    "CheckpointError",
    "DataError",
    "EdgetlError",
    "EngineError",
    "ExportError",
    "ImageError",
    "MissingDependency",
    "OutputError",
    "UsageError",
    "nearest",
    "pip_install",
]


class EdgetlError(Exception):
    """Base of all errors that the user can fix.

    ``what`` says what is wrong and where; ``fix`` is the command or the change that mends it. As a string both are
    safe to show: names in them may hold anything (see `edgetl_runtime.escaping`).
    """

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are made again from `args`, which are not what `__init__` takes; worker processes send them.
        return _made_again, (type(self), self.args), vars(self)

    def __str__(self) -> str:
        what = message(self.what, indent="    ")
        return what if self.fix is None else f"{what}\n  fix: {message(self.fix, indent='    ')}"


def _made_again(kind: type[EdgetlError], args: tuple[Any, ...]) -> EdgetlError:
    return kind.__new__(kind, *args)


class UsageError(EdgetlError):
    """An option, a name or a combination of them that makes no sense."""


class DataError(EdgetlError):
    """A data set that cannot be used as it is."""


class ImageError(DataError):
    """An image that cannot be read."""


class CheckpointError(EdgetlError):
    """Weights that are missing, damaged or of another architecture."""


class BundleError(EdgetlError):
    """A bundle or model file that is damaged, incomplete or of a newer schema."""


class EngineError(EdgetlError):
    """An engine that cannot load or run a variant."""


class MissingDependency(EdgetlError):  # noqa: N818 - the user reads the name, "Error" adds nothing
    """A library that is not installed; the fix is the pip command."""

    def __init__(self, library: str, *, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs {library}, which is not installed here",
            fix=pip_install(extra),
        )
        self.library = library
        self.extra = extra

    def __str__(self) -> str:
        return message(f"{self.what}: {self.fix}", indent="    ")


class ExportError(EdgetlError):
    """A target that could not be written."""


class OutputError(EdgetlError):
    """A destination that exists already, is read-only or is full."""


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`known` as one line, the closest to `word` first: the tail of every "unknown name" message."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def pip_install(extra: str) -> str:
    """The line that installs the extra of this distribution: ``edgetl``, or on a device ``edgetl-runtime``."""
    from importlib.util import find_spec

    workbench = find_spec("edgetl")
    # A folder that only has the name is a namespace package: it has no origin.
    name = "edgetl-runtime" if workbench is None or workbench.origin is None else "edgetl"
    return f'pip install "{name}[{extra}]"'
