"""From a folder with masks to verified files and masks on a device: the whole way, with a network of seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from PIL import Image

from edgetl.cli.main import main
from edgetl.models.checkpoint import Checkpoint
from edgetl.tasks.segmentation.shapes import SHAPES, demo_shapes
from edgetl.verify.report import Report
from edgetl_runtime import Segmentation, Segmenter, cli, load, load_image, open_bundle, self_test
from tests.edgetl.tasks.conftest import OnnxAlone
from tests.edgetl.verify.planting import renew
from tests.zoo import StridedNet, as_backbone

pytestmark = pytest.mark.slow

_TRAIN, _VAL = 80, 16


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with as_backbone("stridednet", StridedNet):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shapes as a user has them, in folders."""
    root, data = tmp_path_factory.mktemp("shapes"), demo_shapes(0)
    for split, samples in (("train", data.train[:_TRAIN]), ("val", data.val[:_VAL])):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for sample in samples:
            Image.fromarray(np.asarray(sample.source)).save(root / split / "images" / f"{sample.name}.png")
            Image.fromarray(np.asarray(sample.target)).save(root / split / "masks" / f"{sample.name}.png")
    (root / "labels.txt").write_text("\n".join(SHAPES), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def bundle(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmentation") / "shapes.edgetl"
    words = ["run", "--task", "segmentation", "--data", str(photos), "--out", str(out), "--weights", "none"]
    words += ["--backbone", "stridednet", "--image-size", "64", "--epochs", "16", "--lr", "0.01"]
    words += ["--targets", "onnx", "--precisions", "fp32,int8", "--labels-in-graph"]
    assert main(words) == 0
    return out


def test_it_learns_and_every_file_is_verified(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert (manifest.task, manifest.decoder) == ("segmentation", {"size": [64, 64]})
    assert (manifest.output.name, manifest.output.shape) == ("logits", (1, 8, 8, 4))
    assert [(spec.name, spec.dtype, spec.shape) for spec in manifest.decoded] == [("label_map", "uint8", (1, 64, 64))]
    assert manifest.preprocess.mode == "stretch"
    report = Report.from_json((bundle / "report.json").read_bytes(), where="report.json")
    assert report.verdict.passed
    assert report.quality is not None
    assert (report.quality.name, report.quality.n) == ("mIoU", _VAL)
    assert report.quality.value > 0.5
    for variant in report.variants:
        assert variant.error is None
        assert variant.quality is not None
        assert abs(variant.quality.delta or 0.0) < 0.02
        assert variant.parity is not None
        assert variant.parity.decided_alike > (0.9999 if variant.precision == "fp32" else 0.98)
    titles = [table.title for table in report.tables]
    assert titles[:2] == ["IoU by label", "Where masks differ from the original's"]
    assert report.pictures
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "IoU by label" in page
    assert "top-1" not in page


def test_the_checkpoint_knows_its_head(photos: Path, tmp_path: Path) -> None:
    words = ["train", "--task", "segmentation", "--data", str(photos), "--out", str(tmp_path / "net")]
    words += ["--weights", "none", "--backbone", "stridednet", "--image-size", "64", "--epochs", "1"]
    assert main([*words, "--head", "unet"]) == 0
    checkpoint = Checkpoint.load(tmp_path / "net")
    assert checkpoint.head is not None
    assert checkpoint.head.name == "unet"
    with torch.inference_mode():
        outputs = checkpoint.build().eval()(torch.zeros(1, 3, 64, 64))
    assert outputs["logits"].shape == (1, 32, 32, 4)


def test_masks_on_the_device(bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = sorted((photos / "val" / "images").iterdir())[0]
    truth = np.asarray(Image.open(photos / "val" / "masks" / photo.name))
    with load(bundle, variant="onnx.int8", kind=Segmenter) as segmenter:
        found = segmenter.predict(photo)
        smooth = segmenter.predict(photo, smooth=True)
        assert list(segmenter.stream([photo, photo])) == [found, found]
    assert isinstance(found, Segmentation)
    assert found.mask.shape == truth.shape
    assert np.mean(found.mask == truth) > 0.7
    assert np.mean(found.mask == smooth.mask) > 0.9
    assert found.drawn(load_image(photo)).size == truth.shape[::-1]
    assert all(test.passed for test in self_test(open_bundle(bundle)).variants)
    told, drawn = tmp_path / "told.json", tmp_path / "drawn.png"
    words = ["predict", str(bundle), str(photo), "--variant", "onnx.int8", "--smooth", "yes"]
    assert cli.main([*words, "--json", str(told), "--draw", str(drawn)]) == 0
    assert "background" in capsys.readouterr().out
    runs = json.loads(told.read_text())["predictions"][0]["mask"]
    assert np.array_equal(np.repeat(runs["values"], runs["counts"]).reshape(runs["size"]), smooth.mask)
    assert Image.open(drawn).size == truth.shape[::-1]


def test_a_device_without_torch_does_all_of_it(
    bundle: Path, photos: Path, tmp_path: Path, onnx_alone: OnnxAlone
) -> None:
    photo = sorted((photos / "val" / "images").iterdir())[0]
    assert "mask" in onnx_alone.check(bundle, photo, tmp_path)


def test_verifying_again_finds_the_same_photos(bundle: Path, photos: Path) -> None:
    assert main(["verify", str(bundle), "--data", str(photos), "--variants", "onnx.int8"]) == 0


def judged(bundle: Path, data: Path, out: Path) -> tuple[int, set[str]]:
    """The exit code of ``edgetl verify --gate``, and the quantities that int8 failed by."""
    gate, found = out / "gate.toml", out / "found.json"
    gate.write_text("[default]\nmiou = 0.7\nclass_iou_delta = -0.05\n")
    words = ["verify", str(bundle), "--data", str(data), "--variants", "onnx.int8", "--no-photos"]
    code = main([*words, "--gate", str(gate), "--json", str(found)])
    failed = Report.from_json(found.read_bytes(), where=str(found)).verdict.failed
    return code, {check.what for check in failed}


def inserted(graph: onnx.GraphProto, name: str, kind: str, constant: npt.NDArray[Any], **options: Any) -> None:
    """A node after the input or before the output that is called `name`, with a constant besides."""
    at_end, free = name == graph.output[0].name, f"{name}{len(graph.node)}"
    for node in graph.node:
        for names in (node.output, node.input):
            names[:] = [free if one == name else one for one in names]
    graph.initializer.append(onnx.numpy_helper.from_array(constant, f"{free}.constant"))
    given, made = (free, name) if at_end else (name, free)
    node = onnx.helper.make_node(kind, [given, f"{free}.constant"], [made], **options)
    graph.node.insert(len(graph.node) if at_end else 0, node)


def corners_aligned(graph: onnx.GraphProto) -> None:
    """The map where upsampling with ``align_corners`` takes it from: half a place off at the edges."""
    at = np.arange(8) * 7 / 8
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(8))).astype(np.float32)
    inserted(graph, "logits", "Einsum", weights, equation="nijc,hi->nhjc")
    inserted(graph, "logits", "Einsum", weights, equation="nhjc,wj->nhwc")


FAULTS: dict[str, Callable[[onnx.GraphProto], None]] = {
    "labels shifted by one": lambda graph: inserted(graph, "logits", "Gather", np.array([3, 0, 1, 2]), axis=3),
    "upside down": lambda graph: inserted(graph, "logits", "Gather", np.arange(7, -1, -1), axis=1),
    "half a pixel": corners_aligned,
    "a channel zeroed": lambda graph: inserted(graph, "logits", "Mul", np.array([1, 1, 0, 1], np.float32)),
    "BGR": lambda graph: inserted(graph, "image", "Gather", np.array([2, 1, 0]), axis=3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_gate(bundle: Path, photos: Path, fault: str, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken.edgetl"))
    path = broken / "onnx" / "model.int8.onnx"
    model = onnx.load(path)
    FAULTS[fault](model.graph)
    onnx.save(model, path)
    renew(broken, "onnx.int8")
    code, failed = judged(broken, photos, tmp_path)
    assert code == 1
    assert {"agreement", "class_iou_delta"} <= failed


def test_the_gate_passes_what_is_sound_unless_what_is_ignored_counts(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    for name, value in (("ignored", 255), ("counted", 0)):
        data = Path(shutil.copytree(photos, tmp_path / name))
        for path in (data / "val" / "masks").iterdir():
            mask = np.array(Image.open(path))
            mask[:, 32:] = value
            Image.fromarray(mask).save(path)
    assert judged(bundle, tmp_path / "ignored", tmp_path) == (0, set())
    assert judged(bundle, tmp_path / "counted", tmp_path) == (1, {"miou"})
