"""Which variant is taken, and what is said when none can be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl_runtime import (
    Bundle,
    BundleError,
    Choice,
    EngineError,
    FakeSession,
    MissingDependency,
    Session,
    UsageError,
    Wish,
    choose,
    load,
    open_bundle,
)
from edgetl_runtime.cache import CACHE_VARIABLE

MILLISECONDS = {"onnx.fp32": 6.0, "onnx.int8": 2.0, "tflite.fp32": 9.0, "openvino.fp32": 4.0}


class Engines:
    """Sessions that take as long as they are told to, in the place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.milliseconds = dict(MILLISECONDS)
        self.broken: set[str] = set()
        self.opened: list[str] = []
        self.open = 0
        monkeypatch.setattr(Bundle, "session", lambda bundle, id_, **_: self._session(bundle, id_))

    def _session(self, bundle: Bundle, id_: str) -> Session:
        if id_ in self.broken:
            raise EngineError(f"{id_} has an operator that this engine lacks")
        self.opened.append(id_)
        manifest, times, engines = bundle.manifest, self.milliseconds, self

        class Timed(FakeSession):
            def _close(self) -> None:
                engines.open -= 1

        def compute(feeds: Mapping[str, Any]) -> dict[str, Any]:
            time.sleep(times[id_] / 1e3)
            return {"logits": np.zeros((1, len(manifest.labels)), np.float32)}

        engines.open += 1
        return Timed((manifest.input,), (manifest.output,), compute)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engines:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Engines(monkeypatch)


@pytest.fixture
def report() -> Callable[..., None]:
    """Write a report.json: ``report(path, {"onnx.int8": (top1_agreement, top1, delta)})``."""

    def write(path: Path, found: Mapping[str, tuple[float, float | None, float | None]]) -> None:
        variants = [
            {
                "id": id_,
                "parity": {"n": 100, "top1_agreement": agreement},
                "accuracy": None if top1 is None else {"top1": top1, "delta": delta},
            }
            for id_, (agreement, top1, delta) in found.items()
        ]
        verdict = {"passed": True, "checks": []}
        (path / "report.json").write_text(json.dumps({"schema": 1, "variants": variants, "verdict": verdict}))

    return write


def choice_of(path: Path, **wish: Any) -> Choice:
    return choose(open_bundle(path), Wish(**wish))


def test_fastest_is_taken_whatever_its_precision(engines: Engines, bundle_path: Path) -> None:
    assert choice_of(bundle_path).variant == "onnx.int8"
    assert choice_of(bundle_path, engine="litert").variant == "tflite.fp32"
    engines.milliseconds["openvino.fp32"] = 0.5
    assert choice_of(bundle_path, threads=1).variant == "openvino.fp32"
    assert engines.open == 0


def test_of_equally_fast_ones_the_more_faithful(
    engines: Engines, bundle_path: Path, report: Callable[..., None]
) -> None:
    engines.milliseconds = dict.fromkeys(MILLISECONDS, 20.0)
    agreement = {"onnx.fp32": 0.97, "onnx.int8": 0.96, "tflite.fp32": 0.99, "openvino.fp32": 0.98}
    report(bundle_path, {id_: (share, 0.8, 0.0) for id_, share in agreement.items()})
    assert choice_of(bundle_path).variant == "tflite.fp32"


@pytest.mark.slow
def test_accuracy_that_is_asked_for(engines: Engines, bundle_path: Path, report: Callable[..., None]) -> None:
    found = {
        "onnx.int8": (0.95, 0.76, -0.04),
        "openvino.fp32": (0.99, 0.795, -0.005),
        "onnx.fp32": (1.0, 0.8, 0.0),
        "tflite.fp32": (0.98, None, None),
    }
    report(bundle_path, found)
    assert choice_of(bundle_path).variant == "onnx.int8"
    assert choice_of(bundle_path, max_drop=0.005).variant == "openvino.fp32"
    assert choice_of(bundle_path, max_drop=0.004).variant == "onnx.fp32"
    assert choice_of(bundle_path, min_top1=0.8).variant == "onnx.fp32"
    # Without labels the share of other decisions stands for the drop.
    assert choice_of(bundle_path, engine="litert", max_drop=0.02).variant == "tflite.fp32"
    with pytest.raises(EngineError, match=r"tflite\.fp32: drop 2\.0%, asked for 1\.9% at most"):
        choice_of(bundle_path, engine="litert", max_drop=0.019)
    with pytest.raises(EngineError, match=r"tflite\.fp32: its accuracy is not recorded"):
        choice_of(bundle_path, engine="litert", min_top1=0.5)
    with pytest.raises(EngineError, match=r"onnx\.int8: top-1 76\.0%, asked for 90\.0%"):
        choice_of(bundle_path, min_top1=0.9)


@pytest.mark.parametrize(
    ("wish", "fix"),
    [
        ({"min_top1": 80}, "a share of 1: write 0.8"),
        ({"min_top1": True}, "a share of 1"),
        ({"min_top1": "0.8"}, "a share of 1"),
        ({"max_drop": -0.1}, "a share of 1, from 0, below 0.5"),
        ({"max_drop": float("nan")}, "a share of 1"),
        ({"max_drop": 1}, "a share of 1: write 0.01"),
        ({"max_drop": 0.5}, "a share of 1: write 0.005"),
    ],
)
def test_shares_are_of_one(wish: dict[str, Any], fix: str) -> None:
    with pytest.raises(UsageError, match=next(iter(wish))) as caught:
        Wish(**wish)
    assert fix in str(caught.value.fix)


def test_what_is_found_and_what_is_asked_for_differ_as_text(
    engines: Engines, bundle_path: Path, report: Callable[..., None]
) -> None:
    report(bundle_path, {"onnx.int8": (0.9, 0.7946, -0.0054)})
    with pytest.raises(EngineError, match=r"onnx\.int8: drop 0\.54%, asked for 0\.50% at most"):
        choice_of(bundle_path, engine="onnxruntime", max_drop=0.005)
    with pytest.raises(EngineError, match=r"onnx\.int8: top-1 79\.46%, asked for 79\.50%"):
        choice_of(bundle_path, engine="onnxruntime", min_top1=0.795)


def test_not_verified_only_where_nothing_is(engines: Engines, bundle_path: Path, report: Callable[..., None]) -> None:
    report(bundle_path, {"onnx.fp32": (1.0, 0.8, 0.0), "tflite.fp32": (1.0, 0.8, 0.0)})
    found = choice_of(bundle_path)
    assert found.variant == "onnx.fp32"
    assert {item.variant: item.problem for item in found.candidates}["onnx.int8"] == "not verified"


def test_failed_variants_are_passed_over_unless_named(
    engines: Engines, bundle_path: Path, fail_in_report: Callable[..., None]
) -> None:
    fail_in_report(bundle_path, "onnx.int8")
    assert choice_of(bundle_path).variant == "openvino.fp32"
    assert load(bundle_path, variant="onnx.int8").variant.id == "onnx.int8"
    fail_in_report(bundle_path, "onnx.int8", "onnx.fp32")
    with pytest.raises(EngineError, match=r"onnx\.int8: failed verification: top1_agreement 0\.25 \(limit 0\.97\)"):
        choice_of(bundle_path, engine="onnxruntime")


@pytest.mark.parametrize(
    ("what", "value", "limit"),
    [
        ("p50_ratio", 1.34, 1.2),
        ("p95_ms", 99.0, 5.0),
        ("speedup", 0.9, 1.5),
        ("bytes", 4_100_000, 4_000_000),
        ("cold_start_ms", None, 300),  # limited and not measured
        ("baseline.p50_ratio", 1.34, 1.2),
        ("baseline.peak_rss_bytes", 2e8, 1e8),
    ],
)
def test_a_missed_limit_on_cost_is_a_note(
    engines: Engines,
    bundle_path: Path,
    report_of_checks: Callable[..., None],
    what: str,
    value: float | None,
    limit: float,
) -> None:
    """A machine of somebody's CI was slow: that says nothing of what the file answers here."""
    report_of_checks(bundle_path, ("onnx.int8", what, value, limit))
    found = choice_of(bundle_path)
    assert found.variant == "onnx.int8"
    (candidate,) = [item for item in found.candidates if item.variant == "onnx.int8"]
    assert candidate.problem is None
    assert candidate.note is not None
    assert candidate.note.startswith(f"{what} ")
    assert f"fits; missed where verified: {what}" in str(found)
    assert open_bundle(bundle_path).failed_variants() == frozenset()
    assert [check.is_cost for check in open_bundle(bundle_path).failed_checks()["onnx.int8"]] == [True]


@pytest.mark.parametrize(
    ("what", "value", "limit"),
    [
        ("top1_agreement", 0.4, 0.95),
        ("sqnr_db", 3.0, 6.0),
        ("delta", -0.2, -0.02),
        ("class_delta", -0.4, -0.1),
        ("works", None, None),
        ("labels", 0.1, 0.5),
        ("weights", 0.0, 0.1),
        ("manifest", None, None),
        ("baseline.top1", 0.5, 0.8),
        ("a check of a later edgetl", None, None),
    ],
)
def test_a_failure_of_quality_is_heeded_beside_any_note(
    engines: Engines,
    bundle_path: Path,
    report_of_checks: Callable[..., None],
    what: str,
    value: float | None,
    limit: float | None,
) -> None:
    report_of_checks(bundle_path, ("onnx.int8", "p50_ratio", 1.34, 1.2), ("onnx.int8", what, value, limit))
    found = choice_of(bundle_path)
    assert found.variant == "openvino.fp32"
    (problem,) = [item.problem for item in found.candidates if item.variant == "onnx.int8"]
    assert problem is not None
    assert problem.startswith(f"failed verification: {what}")
    assert open_bundle(bundle_path).failed_variants() == {"onnx.int8"}


def test_what_was_recorded_of_other_files_says_nothing(
    engines: Engines, bundle_path: Path, report_of_checks: Callable[..., None]
) -> None:
    variants = open_bundle(bundle_path).manifest.variants
    files = {variant.id: {file.path: file.sha256 for file in variant.files} for variant in variants}
    failed = ("onnx.int8", "top1_agreement", 0.1, 0.9)
    report_of_checks(bundle_path, failed, files=files)
    assert {item.variant: item.problem for item in choice_of(bundle_path).candidates}["onnx.int8"] is not None
    other = {**files, "onnx.int8": dict.fromkeys(files["onnx.int8"], "0" * 64)}
    report_of_checks(bundle_path, failed, files=other)
    found = {item.variant: item for item in choice_of(bundle_path).candidates}["onnx.int8"]
    assert (found.problem, found.top1_agreement) == ("not verified", None)


@pytest.mark.parametrize(("drop", "said"), [(0.0054, "0.54%"), (0.0501, "5.01%"), (0.005004, "0.5004%")])
def test_a_drop_is_told_from_what_was_asked_for(
    engines: Engines, bundle_path: Path, report: Callable[..., None], drop: float, said: str
) -> None:
    report(bundle_path, {"tflite.fp32": (0.9, 0.8, -drop)})
    with pytest.raises(EngineError, match=f"drop {said}, asked for"):
        choice_of(bundle_path, engine="litert", max_drop=round(drop, 3))


@pytest.mark.slow
def test_second_start_remembers_and_nothing_else_does(
    engines: Engines, bundle_path: Path, edit_manifest: Callable[..., None], report: Callable[..., None]
) -> None:
    first = choice_of(bundle_path)
    engines.opened.clear()
    second = choice_of(bundle_path)
    assert (first.cached, second.cached, engines.opened) == (False, True, [])
    assert second.candidates == first.candidates
    engines.milliseconds["openvino.fp32"] = 0.5
    assert choice_of(bundle_path).variant == "onnx.int8"
    # Another number of threads, another device, another report and another manifest are other questions.
    assert choice_of(bundle_path, threads=1).variant == "openvino.fp32"
    assert choice_of(bundle_path, device="auto").variant == "openvino.fp32"
    report(bundle_path, dict.fromkeys(MILLISECONDS, (1.0, 0.8, 0.0)))
    assert not choice_of(bundle_path).cached
    edit_manifest(bundle_path, lambda raw: raw.update(name="other"))
    assert not choice_of(bundle_path).cached


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"times": {"onnx.int8": 1}, "failed": {}}', '{"times": 3, "failed": {}}']
)
def test_damaged_memory_is_found_anew(damage: str, engines: Engines, bundle_path: Path, tmp_path: Path) -> None:
    choice_of(bundle_path)
    (file,) = (tmp_path / "cache" / "choices").iterdir()
    file.write_text(damage)
    assert not choice_of(bundle_path).cached
    assert choice_of(bundle_path).cached


@pytest.mark.slow
def test_memory_that_cannot_be_kept_or_is_off(
    engines: Engines, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for where in (str(blocked / "cache"), ""):
        monkeypatch.setenv(CACHE_VARIABLE, where)
        assert not choice_of(bundle_path).cached
        assert not choice_of(bundle_path).cached


def test_variant_that_does_not_run_after_all_is_passed_over(engines: Engines, bundle_path: Path) -> None:
    engines.broken = {"onnx.int8"}
    for cached in (False, True):
        found = choice_of(bundle_path)
        assert (found.variant, found.cached) == ("openvino.fp32", cached)
        assert "an operator that this engine lacks" in str(found)
    engines.broken = set(MILLISECONDS)
    with pytest.raises(EngineError, match=r"tflite\.fp32 has an operator that this engine lacks"):
        choice_of(bundle_path, threads=2)
    assert engines.open == 0


def test_one_that_can_is_not_measured(engines: Engines, bundle_path: Path, no_engines: Callable[..., None]) -> None:
    no_engines("onnxruntime", "openvino")
    assert choice_of(bundle_path).variant == "tflite.fp32"
    assert engines.opened == []


def test_explain_prints_the_table(
    engines: Engines, bundle_path: Path, report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    report(bundle_path, dict.fromkeys(MILLISECONDS, (0.99, 0.8, -0.01)))
    with load(bundle_path) as classifier:
        classifier.explain()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "onnx.int8: the fastest of 4 that run here and fit"
    (chosen,) = [line for line in lines if line.startswith("*")]
    assert "onnx.int8" in chosen
    assert "99.0%" in chosen
    assert len(lines) == 6
    with load(bundle_path, variant="onnx.fp32") as classifier:
        classifier.explain()
    assert capsys.readouterr().out == "onnx.fp32: it was named\n"


def test_real_engines_are_measured(pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    found = choice_of(pristine_bundle)
    times = {item.variant: item.fastest_ms for item in found.candidates}
    assert set(times) == set(MILLISECONDS)
    assert all(time_ms is not None and time_ms > 0 for time_ms in times.values())


def test_nothing_installed_names_every_way_out(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    no_engines()
    with pytest.raises(EngineError) as caught:
        choice_of(pristine_bundle)
    for extra in ("onnx", "tflite", "openvino"):
        assert f'pip install "edgetl[{extra}]"' in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "quantum"])
def test_a_device_that_is_not_there_is_said_and_nothing_is_to_be_exported(device: str, pristine_bundle: Path) -> None:
    with pytest.raises(EngineError) as caught:
        load(pristine_bundle, device=device)
    said = str(caught.value)
    for engine in ("onnxruntime", "litert", "openvino"):
        assert f"{engine} has no device {device!r} here" in said
    assert "use one of: cpu, auto" in said
    assert "export the bundle" not in said
    assert ("install onnxruntime-gpu" in said) == (device != "quantum")


def test_the_missing_device_is_said_beside_what_failed(
    pristine_bundle: Path, bundle_path: Path, report_of_checks: Callable[..., None]
) -> None:
    report_of_checks(bundle_path, ("openvino.fp32", "top1_agreement", 0.1, 0.9))
    with pytest.raises(EngineError) as caught:
        load(bundle_path, device="cuda")
    said = str(caught.value)
    assert "openvino.fp32: failed verification: top1_agreement 0.1 (limit 0.9)" in said
    assert "onnxruntime has no device 'cuda' here" in said
    assert "install onnxruntime-gpu" in said
    assert "export the bundle" not in said
    assert said.endswith("to use it anyway: openvino.fp32")


def test_one_missing_engine_is_its_own_error(pristine_bundle: Path, no_engines: Callable[..., None]) -> None:
    no_engines("openvino")
    for wish in ({"engine": "openvino"}, {"variant": "openvino.fp32"}):
        with pytest.raises(MissingDependency, match=r"edgetl\[openvino\]"):
            load(pristine_bundle, **wish)  # type: ignore[arg-type]


def test_names_that_do_not_fit(pristine_bundle: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'litert'"):
        choice_of(pristine_bundle, engine="litret")
    with pytest.raises(BundleError, match=r"no variant 'onnx\.fp16'"):
        load(pristine_bundle, variant="onnx.fp16")
    with pytest.raises(EngineError, match="runs in litert, not in onnxruntime"):
        load(pristine_bundle, variant="tflite.fp32", engine="onnxruntime")
    with pytest.raises(UsageError, match="did you mean 'litert'"):
        load(pristine_bundle, variant="tflite.fp32", engine="litret")
    with pytest.raises(EngineError, match="no variant for engine 'openvino'"):
        choice_of(pristine_bundle / "onnx/model.fp32.onnx", engine="openvino")


def test_engine_of_a_newer_edgetl_is_no_crash(
    engines: Engines, bundle_path: Path, edit_manifest: Callable[..., None]
) -> None:
    edit_manifest(bundle_path, lambda raw: raw["variants"][3]["requires"].update(engine="hailort"))
    assert choice_of(bundle_path).variant == "openvino.fp32"
    with pytest.raises(EngineError, match="'hailort', which this edgetl does not know"):
        load(bundle_path, variant="onnx.int8")
