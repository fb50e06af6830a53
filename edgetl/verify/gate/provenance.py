"""Where a report comes from: the input contract, versions of converters and engines, the images, the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgetl.tasks import task_of
from edgetl.tasks.task import Quality
from edgetl.verify.report import Change, Report
from edgetl_runtime.manifest import Manifest

__all__ = ["contract_of", "provenance_changes"]


def contract_of(manifest: Manifest) -> dict[str, Any]:
    """What an app on the device relies on, as JSON has it: input, preprocessing, normalisation, what is given."""
    parts = ("input", "normalize", "output")
    found = {name: _as_json(dataclasses.asdict(getattr(manifest, name))) for name in parts}
    found["preprocess"] = _as_json(manifest.preprocess.fields())  # so that an older report has the same
    if len(manifest.outputs) > 1:
        found["outputs"] = [_as_json(dataclasses.asdict(spec)) for spec in manifest.outputs]
    for name in ("features", "decoded"):
        if specs := getattr(manifest, name):
            found[name] = [_as_json(dataclasses.asdict(spec)) for spec in specs]
    return found


def provenance_changes(before: Report, after: Report) -> Iterator[Change]:
    """Versions, images, the contract and the original, where they differ: told, without a direction."""
    about: dict[str, tuple[object, object]] = {
        "images": (
            f"{before.data.n} ({before.data.fingerprint[:12]})",
            f"{after.data.n} ({after.data.fingerprint[:12]})",
        ),
        f"original {task_of(after.task).quality_quantity}": (_value(before.known_quality), _value(after.known_quality)),
        "checkpoint": (
            _start(before.provenance.get("checkpoint_sha256")),
            _start(after.provenance.get("checkpoint_sha256")),
        ),
    }
    for name in sorted(before.contract.keys() & after.contract.keys()):
        about[f"contract.{name}"] = (_told(before.contract[name]), _told(after.contract[name]))
    about |= _versions(before, after)
    for what, (was, now) in about.items():
        if was != now and (was, now) != (None, None):
            contract = what.startswith("contract.")
            note = "what an app on the device relies on" if contract else "told, does not count"
            yield Change("", what, _plain(was), _plain(now), contract, False, note)


def _value(quality: Quality | None) -> float | None:
    return None if quality is None else quality.value


def _versions(before: Report, after: Report) -> dict[str, tuple[object, object]]:
    """Converters and engines: by name the versions then and now."""
    sources: list[tuple[str, Callable[[Report], Mapping[str, Any]]]] = [
        ("converter", lambda report: report.provenance.get("converters") or {}),
        ("exported with", lambda report: {n: report.provenance.get(n) for n in ("edgetl", "torch")}),
        (
            "engine",
            lambda report: {v.engine: v.engine_version for v in report.variants if v.engine and v.engine_version},
        ),
    ]
    found: dict[str, tuple[object, object]] = {}
    for kind, read in sources:
        was, now = read(before), read(after)
        for name in sorted({*was, *now}):
            found[f"{kind} {name}"] = (was.get(name), now.get(name))
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _told(part: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in part.items()) if isinstance(part, dict) else str(part)


def _plain(value: object) -> float | str | None:
    return value if value is None or isinstance(value, (float, str)) else str(value)


def _start(digest: Any) -> str | None:
    return None if digest is None else str(digest)[:12]
