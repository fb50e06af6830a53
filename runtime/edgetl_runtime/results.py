"""Results as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from edgetl_runtime.escaping import json_value

__all__ = ["Result"]


class Result:
    """Base of the dataclasses that are results."""

    _also: ClassVar[tuple[str, ...]] = ()
    """Properties that stand in the JSON beside the fields."""

    def fields(self) -> dict[str, Any]:
        """The fields as JSON has them: dictionaries, lists, numbers, texts."""
        return dataclasses.asdict(self)  # type: ignore[call-overload,no-any-return] # whoever inherits this is a dataclass

    def to_json(self, *, indent: int | None = None) -> str:
        """All of it as JSON text, nested as it is; infinities and NaN, which JSON cannot hold, are null."""
        import json

        value = {**self.fields(), **{name: getattr(self, name) for name in self._also}}
        return json.dumps(json_value(value), indent=indent, ensure_ascii=False, allow_nan=False)
