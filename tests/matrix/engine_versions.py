"""The least version of each engine library with which every variant of some bundles runs, found by trying.

    python tests/matrix/engine_versions.py flowers.edgetl --engines onnxruntime,tflite-runtime --workdir versions

Each try is a fresh virtual environment with edgetl's wheel and one version of the library. A variant passes when it
loads, passes ``edgetl-run self-test`` and gives the golden samples the labels that the newest version gives them. What
fails is tried again with ``numpy<2``, which old libraries were built for. Only what exists for the Python that runs
this script, and for this machine, is tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from environments import Environment, Outcome, build_wheel, digest, known_versions, try_bundle
from summaries_of_versions import as_document, as_markdown
from version_search import Trial, Trials, search

from edgetl_runtime.engines import ENGINES
from edgetl_runtime.errors import EdgetlError, UsageError
from edgetl_runtime.manifest import Manifest

__all__ = ["NUMPY_2", "TRIED", "Candidate", "Matrix", "main"]

TRIED = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime")
"""By default; tensorflow runs TFLite models too, but nobody installs it for that on a device."""

NUMPY_2 = "numpy 2"
"""Key of a trial beside its variants: whether the library runs anything with numpy 2."""


@dataclass(frozen=True)
class Candidate:
    """A bundle to try: its ``name`` in the results, the folder to run, its variants by target."""

    name: str
    folder: Path
    variants: dict[str, tuple[str, ...]]

    @classmethod
    def prepare(cls, bundle: Path, workdir: Path) -> Candidate:
        """A copy of `bundle` that requires no version of anything: what it says now must not decide what is tried."""
        if not (bundle / "manifest.json").is_file():
            raise UsageError(f"{bundle} is no bundle folder", fix="pass the folder that `edgetl export` wrote")
        manifest = Manifest.from_json((bundle / "manifest.json").read_bytes(), where=str(bundle))
        folder = workdir / "bundles" / f"{bundle.stem}-{digest(bundle / 'manifest.json')}"
        if not folder.is_dir():
            shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("reference", "report.*", "export.log"))
            raw = json.loads(manifest.to_json())
            for variant in raw["variants"]:
                variant["requires"] = {"engine": variant["requires"]["engine"]}
            (folder / "manifest.json").write_text(json.dumps(raw), encoding="utf-8")
        targets = dict.fromkeys(variant.target for variant in manifest.variants)
        variants = {
            target: tuple(variant.id for variant in manifest.variants if variant.target == target) for target in targets
        }
        return cls(bundle.stem, folder, variants)


@dataclass(frozen=True)
class Matrix:
    """Tries versions of one library: ``distribution`` on the package index, for the bundles' variants of a target.

    ``labels`` are those that every variant has to give, of the target's first library in its newest version.
    """

    distribution: str
    target: str
    candidates: Sequence[Candidate]
    labels: dict[str, tuple[int, ...]]
    wheel: Path
    workdir: Path
    note: Callable[[str], None]

    def run(self) -> Trials:
        """Search among all versions. Raises `UsageError` when none can be installed."""

        def attempt(version: str) -> Trial | None:
            outcomes = self._try(version)
            if outcomes is None:
                return None
            for key, outcome in outcomes.items():
                if outcome.problem is None:
                    self.labels.setdefault(key, outcome.labels)
            trial = {key: _judged(outcome, self.labels.get(key, ())) for key, outcome in outcomes.items()}
            failed = [key for key, wrong in trial.items() if wrong is not None]
            self.note(f"{self.distribution} {version}: " + (f"fails: {', '.join(failed)}" if failed else "passes"))
            return trial

        trials = search(known_versions(self.distribution), attempt)
        if not trials.results:
            raise UsageError(f"no version of {self.distribution} can be installed", fix="leave it out of --engines")
        return trials

    def _try(self, version: str) -> dict[str, Outcome] | None:
        """The outcomes by "bundle variant" and of `NUMPY_2`; None when this version cannot be installed."""
        found: dict[str, Outcome] = {}
        with_numpy_1 = []
        for candidate in self.candidates:
            ids = candidate.variants[self.target]
            name = f"{self.distribution}-{version}-{candidate.folder.name}-{digest(self.wheel)}.json"
            kept = self.workdir / "trials" / name
            if not kept.is_file():
                tried = self._try_one(version, candidate.folder, ids)
                if tried is None:
                    return None
                kept.parent.mkdir(parents=True, exist_ok=True)
                document = {"numpy": tried[0], "outcomes": {id_: asdict(one) for id_, one in tried[1].items()}}
                kept.write_text(json.dumps(document), encoding="utf-8")
            document = json.loads(kept.read_text(encoding="utf-8"))
            if document["numpy"].startswith("1."):
                with_numpy_1.append(document["numpy"])
            for id_, one in document["outcomes"].items():
                found[f"{candidate.name} {id_}"] = Outcome(one["problem"], tuple(one["labels"]))
        nothing = all(outcome.problem is not None for outcome in found.values())
        only = f"runs with numpy {with_numpy_1[0]} only" if with_numpy_1 else None
        found[NUMPY_2] = Outcome("no variant runs" if nothing else only)
        return found

    def _try_one(self, version: str, bundle: Path, ids: Sequence[str]) -> tuple[str, dict[str, Outcome]] | None:
        """The version of numpy and the outcomes; with numpy 1 when that makes more variants pass."""
        environment = self._environment(version)
        if environment is None:
            return None
        numpy, outcomes = environment.version("numpy"), try_bundle(environment, bundle, ids)
        if numpy.startswith("1.") or not _failures(outcomes):
            return numpy, outcomes
        older = self._environment(version, "numpy<2")
        if older is not None:
            again = try_bundle(older, bundle, ids)
            # When nothing runs either way, what is wrong with numpy 1 is not numpy.
            if _failures(again) < _failures(outcomes) or _failures(outcomes) == len(ids):
                return older.version("numpy"), again
        return numpy, outcomes

    def _environment(self, version: str, *others: str) -> Environment | None:
        name = "-".join([self.distribution, version, *(other.replace("<", "-below-") for other in others)])
        made = Environment.make(
            self.workdir / "environments" / name, [str(self.wheel), f"{self.distribution}=={version}", *others]
        )
        if isinstance(made, str):
            self.note(f"{name} cannot be installed: {made}")
            return None
        return made


def _failures(outcomes: dict[str, Outcome]) -> int:
    return sum(outcome.problem is not None for outcome in outcomes.values())


def _judged(outcome: Outcome, wanted: tuple[int, ...]) -> str | None:
    """What is wrong with an outcome, held against the labels of the newest version."""
    if outcome.problem is not None or outcome.labels == wanted:
        return outcome.problem
    others = sum(a != b for a, b in zip(outcome.labels, wanted, strict=True))
    return f"decides otherwise than the newest version on {others} of {len(wanted)} golden samples"


def main(arguments: Sequence[str]) -> int:
    """Try and print; 0 when done, 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundle folder")
    parser.add_argument("--engines", default=",".join(TRIED), metavar="NAME,...", help="default: %(default)s")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="keep environments and results, and continue there")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="edgetl's wheel (default: built from this checkout)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables (default: print them)")
    given = parser.parse_args(arguments)
    try:
        targets = _targets(given.engines)
        with tempfile.TemporaryDirectory(prefix="edgetl-versions-") as temporary:
            workdir = Path(temporary) if given.workdir is None else given.workdir.absolute()
            workdir.mkdir(parents=True, exist_ok=True)
            candidates = [Candidate.prepare(bundle, workdir) for bundle in given.bundles]
            wheel = build_wheel(workdir) if given.wheel is None else given.wheel.absolute()
            labels: dict[str, tuple[int, ...]] = {}
            found = {}
            for name, target in targets.items():
                able = [candidate for candidate in candidates if target in candidate.variants]
                if able:
                    found[name] = Matrix(name, target, able, labels, wheel, workdir, _note).run()
    except EdgetlError as error:
        print(f"engine_versions: error: {error}", file=sys.stderr)
        return 2
    document = as_document(found, targets, created=datetime.now(UTC))
    if given.json is not None:
        given.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    text = as_markdown(document)
    if given.markdown is None:
        print(text)
    else:
        given.markdown.write_text(text + "\n", encoding="utf-8")
    return 0


def _targets(engines: str) -> dict[str, str]:
    """Distribution -> the target it runs, an engine's preferred library first; `UsageError` for an unknown one."""
    known = {library.distributions[0]: info.target for info in ENGINES.values() for library in info.libraries}
    names = [name.strip() for name in engines.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"unknown engine library {name!r}", fix=f"choose from: {', '.join(known)}")
    return {name: target for name, target in known.items() if name in names}


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
