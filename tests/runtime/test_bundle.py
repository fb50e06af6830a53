"""Bundles as folder and zip: what is read is what was exported, and comes from inside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetl_runtime import Bundle, BundleError, EngineError, UsageError, load, open_bundle, preprocess
from tests.conftest import FILES


def test_folder_and_zips_hold_the_same(pristine_bundle: Path, zip_bundle: Callable[..., Path]) -> None:
    folder = open_bundle(pristine_bundle)
    for top in ("", "colours.edgetl/"):
        zipped = open_bundle(zip_bundle(pristine_bundle, top=top))
        assert zipped.manifest == folder.manifest
        zipped.check()
        assert zipped.read("golden/00.png") == folder.read("golden/00.png")
        with zipped.session("openvino.fp32") as session:
            assert session.engine == "openvino"


def test_golden_samples_are_complete(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    golden = bundle.golden()
    assert golden is not None
    assert golden.tensors.shape == (16, 24, 32, 3)
    assert golden.logits.shape == (16, 4)
    assert golden.names[0] == "00.png"
    np.testing.assert_array_equal(preprocess(golden.images[3], bundle.manifest.preprocess), golden.tensors[3])


@pytest.mark.parametrize(
    "relative", ["onnx/model.fp32.onnx", "openvino/model.fp32.bin", "golden/07.png", "golden/expected.npz"]
)
@pytest.mark.parametrize("change", ["flip", "grow", "delete"])
def test_check_names_the_file_that_differs(relative: str, change: str, bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    bundle.check()
    path = bundle_path / relative
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if change == "delete":
        path.unlink()
    else:
        path.write_bytes(content if change == "flip" else path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=relative):
        bundle.check()


def test_session_checks_its_own_files_unless_told_not_to(bundle_path: Path) -> None:
    path = bundle_path / "onnx/model.fp32.onnx"
    path.write_bytes(path.read_bytes() + b"\x72\x00")  # an empty metadata_props entry: still a sound model
    bundle = open_bundle(bundle_path)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx"):
        bundle.session("onnx.fp32")
    bundle.session("onnx.fp32", verify=False).close()
    bundle.session("onnx.int8").close()


@pytest.mark.parametrize(
    "outside", ["../secret", "/etc/hostname", "onnx/../../secret", "C:\\secret", "..\\secret", "", "a\0b"]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_manifest_cannot_reach_outside(
    outside: str,
    zipped: bool,
    bundle_path: Path,
    edit_manifest: Callable[..., None],
    zip_bundle: Callable[..., Path],
) -> None:
    (bundle_path.parent / "secret").write_bytes(b"secret")
    edit_manifest(bundle_path, lambda raw: raw["variants"][0]["files"][0].update(path=outside))
    bundle = open_bundle(zip_bundle(bundle_path) if zipped else bundle_path)
    with pytest.raises(BundleError, match="outside of the bundle"):
        bundle.check()
    with pytest.raises(BundleError, match="outside of the bundle"):
        bundle.session("onnx.fp32", verify=False)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        open_bundle(tmp_path / "missing.edgetl")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(BundleError, match="neither a bundle folder"):
        open_bundle(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", "x")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path / "other.zip")


def test_damaged_zip_is_a_bundle_error(pristine_bundle: Path, zip_bundle: Callable[..., Path]) -> None:
    path = zip_bundle(pristine_bundle)
    content = bytearray(path.read_bytes())
    start = content.find(b"golden/00.png") + 60
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"golden/00\.png"):
        open_bundle(path).check()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="neither a bundle folder"):
        open_bundle(path)


def _with_expected(bundle_path: Path, content: bytes, edit_manifest: Callable[..., None]) -> Bundle:
    import hashlib

    (bundle_path / "golden/expected.npz").write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(bundle_path, lambda raw: raw["golden"]["expected"].update(entry))
    return open_bundle(bundle_path)


@pytest.mark.parametrize(
    "arrays", [{}, {"tensors": 1}, {"tensors": np.zeros((2, 4, 4, 3), np.uint8)}, "pickle", "text"]
)
def test_damaged_golden_arrays_are_a_bundle_error(
    arrays: object, bundle_path: Path, edit_manifest: Callable[..., None]
) -> None:
    content = io.BytesIO(b"text")
    if arrays == "pickle":
        np.savez(content, tensors=np.array([{"code": "x"}], dtype=object), logits=np.zeros((16, 4), np.float32))
    elif isinstance(arrays, dict):
        np.savez(content, **arrays)
    with pytest.raises(BundleError, match=r"expected\.npz"):
        _with_expected(bundle_path, content.getvalue(), edit_manifest).golden()


def test_golden_arrays_of_another_number_are_a_bundle_error(
    bundle_path: Path, edit_manifest: Callable[..., None]
) -> None:
    content = io.BytesIO()
    np.savez(content, tensors=np.zeros((15, 24, 32, 3), np.uint8), logits=np.zeros((15, 4), np.float32))
    with pytest.raises(BundleError, match="for 16 golden samples"):
        _with_expected(bundle_path, content.getvalue(), edit_manifest).golden()


def test_failed_checks_come_from_the_report(bundle_path: Path, fail_in_report: Callable[..., None]) -> None:
    bundle = open_bundle(bundle_path)
    assert bundle.failed_variants() == frozenset()
    fail_in_report(bundle_path, "onnx.int8")
    assert bundle.failed_variants() == {"onnx.int8"}
    assert str(bundle.failed_checks()["onnx.int8"][0]) == "top1_agreement 0.25 (limit 0.97)"


@pytest.mark.parametrize(
    "report",
    [
        "{}",
        "[" * 100_000,
        '{"verdict": {}}',
        '{"verdict": {"checks": [{"variant": [], "what": 1, "limit": 1, "value": 1, "passed": false}]}}',
        '{"verdict": {"checks": [{"variant": "onnx.int8", "what": 1, "limit": 1, "value": 1, "passed": "false"}]}}',
    ],
)
def test_report_that_lost_something_is_damaged(report: str, bundle_path: Path) -> None:
    (bundle_path / "report.json").write_text(report)
    with pytest.raises(BundleError, match=r"report\.json"):
        open_bundle(bundle_path).failed_variants()


def test_only_files_are_opened(bundle_path: Path, tmp_path: Path) -> None:
    """A pipe would be waited for."""
    for name in ("pipe.onnx", "pipe.edgetl"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(BundleError, match="neither a bundle folder"):
            open_bundle(tmp_path / name)
    (bundle_path / "onnx/model.fp32.onnx").unlink()
    os.mkfifo(bundle_path / "onnx/model.fp32.onnx")
    with pytest.raises(BundleError, match="is missing"):
        open_bundle(bundle_path).session("onnx.fp32", verify=False)
    with pytest.raises(BundleError, match="cannot open"):
        open_bundle("x" * 5000)
    with pytest.raises(UsageError, match="NoneType"):
        open_bundle(None)  # type: ignore[arg-type]


def test_sizes_are_compared_before_files_are_read(bundle_path: Path) -> None:
    with (bundle_path / "onnx/model.fp32.onnx").open("r+b") as file:
        file.truncate(2**40)  # sparse: a terabyte that takes no space
    bundle = open_bundle(bundle_path)
    with pytest.raises(BundleError, match="not the file that was exported: 1099511627776 bytes"):
        bundle.session("onnx.fp32")
    with pytest.raises(BundleError, match="more than the 2147483648 it may have"):
        bundle.session("onnx.fp32", verify=False)
    (bundle_path / "manifest.json").open("ab").truncate(2**40)
    with pytest.raises(BundleError, match=r"manifest\.json .* more than the 8388608"):
        open_bundle(bundle_path)


@pytest.mark.parametrize(
    ("trick", "message"),
    [("lzma", "deflated"), ("inflates", "would become"), ("twice", "same name"), ("name", "damaged zip")],
)
def test_zips_that_cannot_be_bounded_are_refused(trick: str, message: str, bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "tricky.edgetl"
    method = zipfile.ZIP_LZMA if trick == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.write(bundle_path / "manifest.json", "manifest.json")
        model = (bundle_path / "onnx/model.fp32.onnx").read_bytes()
        archive.writestr("onnx/model.fp32.onnx", model + b"\0" * (2**25 if trick == "inflates" else 0))
        archive.writestr("twice/manif.json", b"{}")
        archive.writestr("onnx/model2.onnx", b"")
    if trick == "twice":
        path.write_bytes(path.read_bytes().replace(b"twice/manif.json", b"onnx/model2.onnx"))
    if trick == "name":
        content = bytearray(path.read_bytes())
        start = content.rindex(b"twice/manif.json")
        content[start - 46 + 9] |= 8  # names are UTF-8, it says
        content[start] = 0xFF
        path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        open_bundle(path).session("onnx.fp32", verify=False)


def test_golden_arrays_are_not_larger_than_they_may_be(bundle_path: Path, edit_manifest: Callable[..., None]) -> None:
    content = io.BytesIO()
    logits = np.zeros((16, 4), np.float32)
    np.savez_compressed(content, tensors=np.zeros((16, 24, 32, 3000), np.uint8), logits=logits)
    with pytest.raises(BundleError, match="tensors has 36864128 bytes, more than the"):
        _with_expected(bundle_path, content.getvalue(), edit_manifest).golden()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904,)}".ljust(117) + b"\n"
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("tensors.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        archive.writestr("logits.npy", b"")
    with pytest.raises(BundleError, match=r"expected\.npz .* is damaged"):
        _with_expected(bundle_path, content.getvalue(), edit_manifest).golden()


DEEP = 100_000


def _report(**fields: str) -> str:
    """A report whose verdict is fine, with these fields of onnx.fp32, or in place of the list of variants."""
    found = {"id": '"onnx.fp32"', "parity": "null", "accuracy": "null", "verdict": "null", **fields}
    entry = ", ".join(f'"{name}": {found[name]}' for name in ("id", "parity", "accuracy"))
    variants = found.get("variants", f"[{{{entry}}}]")
    return f'{{"verdict": {found["verdict"]}, "variants": {variants}}}'


@pytest.mark.parametrize(
    "report",
    [
        _report(parity='{"n": 1e999}'),
        _report(parity='{"n": Infinity}'),
        _report(parity='{"n": NaN}'),
        _report(parity='{"n": 1%s}' % ("0" * 400)),
        _report(parity='{"n": "4"}'),
        _report(parity="[]"),
        _report(accuracy='{"delta": -1e999}'),
        _report(accuracy='{"top1": 1%s}' % ("0" * 400)),
        _report(accuracy='{"top1": %s}' % ("9" * 5000)),
        _report(accuracy="3"),
        _report(id='"\\ud800"'),
        _report(id="null"),
        _report(id="[]"),
        _report(variants="3"),
        _report(variants="[3]"),
        _report(variants="[" * DEEP + "]" * DEEP),
        _report(variants="[" * 100 + "]" * 100),
        _report(verdict='{"checks": [{"variant": "\\udfff", "passed": false, "what": "", "limit": 0, "value": 0}]}'),
        _report(verdict='{"checks": [{"variant": "onnx.fp32", "passed": false, "what": 3, "limit": 0, "value": 0}]}'),
        _report(verdict='{"checks": [{"variant": "onnx.fp32", "passed": false, "what": "", "limit": 1e999}]}'),
        _report(verdict='{"checks": {"a": 1}}'),
        "[]",
        '"x"',
        "\udcff",
    ],
    ids=range(24),
)
def test_a_senseless_report_is_one_error(report: str, bundle_path: Path) -> None:
    (bundle_path / "report.json").write_bytes(report.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=r"report\.json in .* is damaged"):
        load(bundle_path, engine="onnxruntime")


def test_many_members_of_a_zip_are_read_quickly(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden samples of 2,000 empty files: the directory of the zip is read once, not for each."""
    n = 2_000
    raw = json.loads((bundle_path / "manifest.json").read_text())
    empty = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    raw["golden"] |= {"n": n, "images": [{"path": f"golden/{i}.png", **empty} for i in range(n)]}
    path = tmp_path / "many.edgetl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(raw))
        archive.write(bundle_path / "golden/expected.npz", "golden/expected.npz")
        for i in range(n):
            archive.writestr(f"golden/{i}.png", b"")
    opened: list[object] = []
    real = zipfile.ZipFile

    def counted(file: Any, *args: Any) -> Any:
        opened.append(file)
        return real(file, *args)

    monkeypatch.setattr("zipfile.ZipFile", counted)
    with pytest.raises(BundleError, match="2000 golden samples"):
        open_bundle(path).golden()
    assert len([file for file in opened if not isinstance(file, io.BytesIO)]) == 1


def test_zips_of_too_many_members_are_refused(tmp_path: Path, bundle_path: Path) -> None:
    for n, message in ((10_000, "10001 files, more than the 10000"), (40_000, "its directory has .* bytes")):
        path = tmp_path / f"{n}.edgetl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(bundle_path / "manifest.json", "manifest.json")
            for i in range(n):
                archive.writestr(f"golden/{i}.png", b"")
        with pytest.raises(BundleError, match=message):
            open_bundle(path)


def test_a_zip_does_not_grow_beyond_measure(bundle_path: Path, tmp_path: Path) -> None:
    """Each member alone is small enough; and each byte of the file may be in many of them."""
    path = tmp_path / "grows.edgetl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundle_path / "manifest.json", "manifest.json")
        for i in range(20):
            archive.writestr(f"golden/{i}.png", b"\0" * 2**20)
    with pytest.raises(BundleError, match="would become"):
        open_bundle(path)


def test_reading_from_a_zip_takes_its_size_in_memory(bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.edgetl"
    noise = np.random.default_rng(0).bytes(2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundle_path / "manifest.json", "manifest.json")
        archive.writestr("large", (noise + b"\0" * 7 * 2**20) * 8)
    bundle = open_bundle(path)
    tracemalloc.start()
    content = bundle.read("large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) == 2**26
    assert peak < 1.25 * len(content)


def test_threads_share_a_zip(pristine_bundle: Path, zip_bundle: Callable[..., Path]) -> None:
    bundle = open_bundle(zip_bundle(pristine_bundle))
    names = [entry.path for entry in bundle.manifest.golden.images] * 20 if bundle.manifest.golden else []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(bundle.read, names))
    assert found == [(pristine_bundle / name).read_bytes() for name in names]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_process_reads_a_zip_for_itself(pristine_bundle: Path, zip_bundle: Callable[..., Path]) -> None:
    """Both would otherwise read, and move, at one place of one file."""
    bundle = open_bundle(zip_bundle(pristine_bundle))
    wanted = (pristine_bundle / FILES["onnx"]).read_bytes()

    def read_often() -> bool:
        return all(bundle.read(FILES["onnx"]) == wanted for _ in range(300))

    child = os.fork()
    if child == 0:
        os._exit(0 if read_often() else 1)
    assert read_often()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pickle.loads(pickle.dumps(bundle)).read(FILES["onnx"]) == wanted


@pytest.mark.parametrize("report", ["{", "[]", '{"verdict": {"checks": [{"passed": false}]}}', '{"verdict": 3}'])
def test_damaged_report_is_not_taken_for_a_good_one(report: str, bundle_path: Path) -> None:
    (bundle_path / "report.json").write_text(report)
    with pytest.raises(BundleError, match=r"report\.json"):
        open_bundle(bundle_path).failed_variants()


def test_report_without_a_verdict_fails_nothing(bundle_path: Path) -> None:
    (bundle_path / "report.json").write_text('{"schema": 1, "verdict": null}')
    assert open_bundle(bundle_path).failed_variants() == frozenset()


def test_variant_with_a_damaged_model_is_an_engine_error(bundle_path: Path) -> None:
    (bundle_path / "tflite/model.fp32.tflite").write_bytes(b"x" * 100)
    with pytest.raises(EngineError, match=r"tflite/model\.fp32\.tflite"):
        open_bundle(bundle_path).session("tflite.fp32", verify=False)
