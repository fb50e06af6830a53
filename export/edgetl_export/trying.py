"""Written files are run before anything says that they are there: in a child process, which a bad one may end."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from edgetl_export.artifact import Artifact
from edgetl_export.bundle_writer import write_variant
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.trial import death, try_variants

__all__ = ["try_candidate", "try_files", "without_variants"]


def try_files(folder: Path, variants: Sequence[Variant]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Run every file of `variants` in `folder` once, and remove those that cannot be run.

    Returns by variant id the reason, and warnings: what kept files from being tried.
    """
    able = [variant for variant in variants if obstacle(variant) is None]
    # Each by itself: a model file carries its own manifest, and the bundle has none yet.
    trials = try_variants({variant.id: folder / variant.files[0].path for variant in able})
    reasons = {id_: death(id_, how).what for id_, how in trials.died.items()} | trials.refused
    for variant in variants:
        if variant.id in reasons:
            for file in variant.files:
                (folder / file.path).unlink()
            target = folder / variant.target
            if not any(target.iterdir()):
                target.rmdir()
    if trials.untried is None:
        return reasons, ()
    return reasons, (f"the files were not run before they were packed: {trials.untried}",)


def try_candidate(folder: Path, variant: Variant, artifact: Artifact) -> str | None:
    """Run what may become the file of `variant`, its manifest inside, before this process does.

    It is written below `folder` for as long as that takes. Returns why it cannot be run; None when it can, and when no
    process could be started.
    """
    with tempfile.TemporaryDirectory(prefix="candidate-", dir=folder) as scratch:
        reasons, _ = try_files(Path(scratch), [write_variant(Path(scratch), variant, artifact)])
    return reasons.get(variant.id)


def without_variants(manifest: Manifest, ids: Collection[str]) -> Manifest:
    """`manifest` as if those variants had never been written."""
    methods = {id_: method for id_, method in manifest.provenance["methods"].items() if id_ not in ids}
    return replace(
        manifest,
        variants=tuple(variant for variant in manifest.variants if variant.id not in ids),
        provenance={**manifest.provenance, "methods": methods},
    )
