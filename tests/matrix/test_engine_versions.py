"""The search for the least version, with made-up libraries in place of environments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import engine_versions
import environments
import pytest
from engine_versions import NUMPY_2, Candidate, Matrix, main
from environments import Environment, Outcome, Ran
from summaries_of_versions import as_document, as_markdown
from version_search import Found, Trials, search

from edgetl_runtime.errors import UsageError
from edgetl_runtime.manifest import Manifest

VERSIONS = [f"1.{minor}" for minor in range(30)]


def library(least: dict[str, int], tried: list[str]) -> Callable[[str], dict[str, str | None]]:
    """Every key passes from version 1.`least` on."""

    def attempt(version: str) -> dict[str, str | None]:
        assert version not in tried, "a version is tried once"
        tried.append(version)
        minor = int(version.split(".")[1])
        return {key: None if minor >= bound else f"{version} is too old" for key, bound in least.items()}

    return attempt


@pytest.mark.parametrize("least", range(1, 30))
def test_the_least_version_is_found(least: int) -> None:
    tried: list[str] = []
    trials = search(VERSIONS, library({"a": least}, tried))
    assert trials.found("a") == Found(f"1.{least}", f"1.{least - 1}", f"1.{least - 1} is too old")
    assert tried[0] == "1.29"
    assert len(tried) <= 7


def test_two_trials_are_enough_when_the_oldest_passes() -> None:
    tried: list[str] = []
    assert search(VERSIONS, library({"a": 0, "b": 0}, tried)).found("b") == Found("1.0")
    assert tried == ["1.29", "1.0"]


def test_what_fails_in_the_newest_has_no_version() -> None:
    tried: list[str] = []
    trials = search(VERSIONS, library({"a": 99}, tried))
    assert trials.found("a") == Found(None, "1.29", "1.29 is too old")
    assert tried == ["1.29"]


def test_every_key_has_its_own_least_version() -> None:
    tried: list[str] = []
    least = {"a": 3, "b": 17, "c": 0, "d": 29}
    trials = search(VERSIONS, library(least, tried))
    assert {key: trials.found(key).least for key in least} == {key: f"1.{minor}" for key, minor in least.items()}
    assert trials.tried() == sorted(tried, key=VERSIONS.index)


def test_a_version_that_fails_between_others_moves_the_least_above_it() -> None:
    holes = {"1.0", "1.1", "1.2", "1.21"}

    def attempt(version: str) -> dict[str, str | None]:
        # "b" makes the search try 1.21, in which "a" has its hole.
        newer = VERSIONS.index(version) >= 22
        return {"a": "wrong" if version in holes else None, "b": None if newer else "wrong"}

    assert search(VERSIONS, attempt).found("a") == Found("1.22", "1.21", "wrong")


def test_a_hole_that_the_search_for_another_key_finds_is_measured() -> None:
    def attempt(version: str) -> dict[str, str | None]:
        minor = VERSIONS.index(version)
        return {"a": "wrong" if 1 <= minor <= 20 else None, "b": None if minor >= 9 else "wrong"}

    trials = search(VERSIONS, attempt)
    assert trials.found("a") == Found("1.21", "1.20", "wrong")
    assert trials.found("b") == Found("1.9", "1.8", "wrong")


def test_a_version_that_cannot_be_installed_is_passed_over() -> None:
    tried: list[str] = []
    attempt = library({"a": 10}, tried)
    absent = {"1.29", "1.0", "1.9", "1.14"}
    trials = search(VERSIONS, lambda version: None if version in absent else attempt(version))
    assert trials.found("a") == Found("1.10", "1.8", "1.8 is too old")
    assert trials.versions[-1] == "1.28"
    assert search(VERSIONS, lambda _: None) == Trials([])


@pytest.fixture
def candidate(pristine_bundle: Path, tmp_path: Path) -> Candidate:
    raw = json.loads((pristine_bundle / "manifest.json").read_text())
    raw["variants"][0]["requires"] |= {"min_version": "99", "libraries": {"onnxruntime": "99"}}
    (tmp_path / "colours.edgetl").mkdir()
    (tmp_path / "colours.edgetl" / "manifest.json").write_text(json.dumps(raw))
    return Candidate.prepare(tmp_path / "colours.edgetl", tmp_path)


def test_what_a_bundle_requires_now_does_not_decide_what_is_tried(candidate: Candidate) -> None:
    manifest = Manifest.from_json((candidate.folder / "manifest.json").read_text(), where="here")
    assert {variant.requires.min_version for variant in manifest.variants} == {None}
    assert not any(variant.requires.libraries for variant in manifest.variants)
    assert candidate.variants["onnx"] == ("onnx.fp32", "onnx.int8")
    assert candidate.name == "colours"


class Fake:
    """ONNX Runtime as it might have been: built for numpy 1 before 1.3, other labels before 1.2, a crash in 1.0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, candidate: Candidate, tmp_path: Path) -> None:
        self.made: list[str] = []
        wheel = tmp_path / "edgetl.whl"
        wheel.write_bytes(b"wheel")
        monkeypatch.setattr(engine_versions, "known_versions", lambda _: [f"1.{minor}" for minor in range(6)])
        monkeypatch.setattr(engine_versions, "try_bundle", self.try_bundle)
        monkeypatch.setattr(Environment, "make", self.make)
        monkeypatch.setattr(Environment, "version", lambda environment, _: self.numpy(environment))
        self.matrix = Matrix("onnxruntime", "onnx", [candidate], {}, wheel, tmp_path, lambda _: None)

    def make(self, folder: Path, requirements: list[str]) -> Environment | str:
        self.made.append(folder.name)
        return "no file for this Python" if "==1.5" in requirements[1] else Environment(folder)

    def numpy(self, environment: Environment) -> str:
        return "1.26.4" if "numpy-below-2" in environment.folder.name else "2.4.0"

    def try_bundle(self, environment: Environment, bundle: Path, variants: list[str]) -> dict[str, Outcome]:
        version = environment.folder.name.split("-")[1]
        unfit = version < "1.3" and self.numpy(environment) > "2"
        if version == "1.0":
            wrong = "numpy.core.multiarray failed to import" if unfit else "crashed with SIGSEGV"
            return dict.fromkeys(variants, Outcome(wrong))
        labels = (0, 1, 1) if version < "1.2" else (0, 1, 2)
        first = Outcome("numpy is not available") if unfit else Outcome(None, (0, 1, 2))
        return {variants[0]: first, variants[1]: Outcome(None, labels)}


def test_old_numpy_crashes_and_other_decisions_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, tmp_path: Path
) -> None:
    fake = Fake(monkeypatch, candidate, tmp_path)
    trials = fake.matrix.run()
    assert trials.found("colours onnx.fp32") == Found("1.1", "1.0", "crashed with SIGSEGV")
    other = "decides otherwise than the newest version on 1 of 3 golden samples"
    assert trials.found("colours onnx.int8") == Found("1.2", "1.1", other)
    assert trials.found(NUMPY_2) == Found("1.3", "1.2", "runs with numpy 1.26.4 only")
    assert "onnxruntime-1.5" in fake.made
    assert trials.versions[-1] == "1.4"


def test_a_library_beside_the_first_is_held_against_its_labels(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, tmp_path: Path
) -> None:
    fake = Fake(monkeypatch, candidate, tmp_path)
    fake.matrix.labels["colours onnx.fp32"] = (0, 1, 1)
    assert fake.matrix.run().found("colours onnx.fp32").least is None


def test_what_was_tried_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, tmp_path: Path
) -> None:
    first = Fake(monkeypatch, candidate, tmp_path)
    trials = first.matrix.run()
    second = Fake(monkeypatch, candidate, tmp_path)
    assert second.matrix.run() == trials
    assert second.made == ["onnxruntime-1.5"]
    second.matrix.wheel.write_bytes(b"another wheel")
    second.made.clear()
    second.matrix.run()
    assert "onnxruntime-1.0" in second.made


def test_the_tables_say_what_was_wrong_before(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, tmp_path: Path
) -> None:
    trials = Fake(monkeypatch, candidate, tmp_path).matrix.run()
    document = as_document({"onnxruntime": trials}, {"onnxruntime": "onnx"}, created=datetime(2026, 11, 22, tzinfo=UTC))
    assert json.loads(json.dumps(document)) == document
    text = as_markdown(document)
    assert "| colours onnx.fp32 | 1.1 | 1.0: crashed with SIGSEGV |" in text.splitlines()
    assert "2026-11-22" in text
    assert "onnxruntime: 1.0 to 1.4 exist; tried: 1.0, 1.1, 1.2, 1.3, 1.4." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said", "problem"),
    [
        ("import os; os.abort()", "", "crashed with SIGABRT"),
        ("raise ValueError('no such operator')", "", "ValueError: no such operator"),
        ("raise SystemExit(3)", "", "ended with code 3 and no message"),
        ("print('fine')", "fine\n", None),
    ],
)
def test_how_a_process_ended_is_one_line(code: str, said: str, problem: str | None) -> None:
    done = environments.run([sys.executable, "-c", code])
    assert done.out == said
    assert problem in (None, done.problem)
    assert (done.code == 0) is (problem is None)
    assert environments.run([sys.executable, "-c", "import time; time.sleep(9)"], seconds=1).code is None


class Answers:
    """Programs that answer as told: ``self-test`` and the script with the decisions; one variant brings them down."""

    def __init__(self, crashing: str | None = None, noise: str = "") -> None:
        self.crashing, self.noise = crashing, noise

    def run(self, program: str, *words: str) -> Ran:
        testing = program == "edgetl-run"
        ids = words[words.index("--variants") + 1].split(",") if testing else words[2:]
        if self.crashing in ids:
            return Ran(-11)
        if testing:
            tests = [{"id": id_, "problem": None if id_ == "a" else f"cannot load {words[1]}: b.onnx"} for id_ in ids]
            document: dict[str, object] = {"pixels": 0, "variants": tests, "not_run": []}
        else:
            document = {id_: {"labels": [1, 2]} for id_ in ids}
        return Ran(int(testing), self.noise + json.dumps(document))


@pytest.mark.parametrize("noise", ["", "INFO: Created a delegate {x}.\n"])
def test_every_variant_has_its_problem_and_its_labels(noise: str) -> None:
    found = environments.try_bundle(Answers(noise=noise), Path("x"), ["a", "b"])  # type: ignore[arg-type]
    assert found == {"a": Outcome(None, (1, 2)), "b": Outcome("cannot load b.onnx", (1, 2))}


def test_a_variant_that_crashes_takes_no_other_with_it() -> None:
    found = environments.try_bundle(Answers(crashing="b"), Path("x"), ["a", "b"])  # type: ignore[arg-type]
    assert found == {"a": Outcome(None, (1, 2)), "b": Outcome("crashed with SIGSEGV")}


def test_what_makes_no_sense_is_for_the_user_to_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "is no bundle folder" in capsys.readouterr().err
    assert main([str(tmp_path), "--engines", "onnxruntme"]) == 2
    assert "unknown engine library 'onnxruntme'" in capsys.readouterr().err


def test_versions_are_read_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "onnxruntime (1.32.0)\nAvailable versions: 1.32.0, 1.31.1, 1.15.0\n  INSTALLED: 1.31.1\n"
    monkeypatch.setattr(environments, "run", lambda _: Ran(0, listed))
    assert environments.known_versions("onnxruntime") == ["1.15.0", "1.31.1", "1.32.0"]
    monkeypatch.setattr(environments, "run", lambda _: Ran(1, "", "ERROR: No matching distribution found for x\n"))
    with pytest.raises(UsageError, match="No matching distribution"):
        environments.known_versions("x")
