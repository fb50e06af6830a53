"""Images of one channel and of four: from photos and arrays on disk to a bundle whose variants all pass."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from edgetl import pipeline
from edgetl.data.dataset import DataOptions, Sample, load_dataset, load_labelled, load_photos
from edgetl.data.thumbnails import Thumbnails
from edgetl.models.backbones import build, first_convolution, preset
from edgetl.models.checkpoint import Checkpoint, open_checkpoint
from edgetl.models.weights import adapt_channels, fit, infer_channels
from edgetl.recipe import ModelOptions, Recipe
from edgetl.tasks.classification.metric import LogitsMetric
from edgetl.training.options import TrainOptions
from edgetl.training.start import input_channels
from edgetl.training.teacher import open_teacher
from edgetl.verify.bundle import source_of
from edgetl.verify.diagnose.hypotheses import _image_changes
from edgetl.verify.measure.outputs import Outputs
from edgetl.verify.options import VerifyOptions
from edgetl.verify.steps import Measuring
from edgetl_export.bundle_writer import write_golden
from edgetl_runtime import Bundle, DataError, Label, Preprocess, UsageError, load, open_bundle, preprocess
from edgetl_runtime.cli import main as run_on_device
from edgetl_runtime.errors import CheckpointError
from edgetl_runtime.selftest import self_test
from tests.zoo import TINY_SIZE

pytestmark = pytest.mark.slow

Pixels = npt.NDArray[np.uint8]

KINDS = ("checks", "plain", "stripes")


def pictures(kind: str, n: int, channels: int, seed: int) -> Pixels:
    """(n, 36, 44, channels) uint8 noise, with a pattern in the last channel alone."""
    rng = np.random.default_rng((seed, KINDS.index(kind)))
    rows, columns = np.mgrid[0:36, 0:44]
    wave = {"plain": 0 * rows, "stripes": rows // 4 % 2, "checks": (rows // 4 + columns // 4) % 2}[kind]
    images = rng.normal(110, 45, (n, 36, 44, channels))
    images[..., -1] += wave * rng.uniform(25, 70, (n, 1, 1))
    return np.clip(images, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, channels: int, n: int = 40) -> Path:
    """Every second one a PNG, the others arrays."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for index, pixels in enumerate(pictures(kind, n, channels, seed=0)):
            if index % 2:
                np.save(folder / kind / f"{index:02d}.npy", pixels)
            else:
                image = Image.fromarray(pixels[..., 0]) if channels == 1 else Image.fromarray(pixels, "RGBA")
                image.save(folder / kind / f"{index:02d}.png")
    return folder


@pytest.mark.parametrize(
    ("channels", "targets"), [(1, ("onnx", "tflite", "openvino")), (4, ("onnx", "tflite"))], ids=["1", "4"]
)
def test_photos_to_predictions(
    channels: int, targets: tuple[str, ...], tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_pictures(tmp_path / "data", channels), tmp_path / "a.edgetl"
    recipe = Recipe().updated(
        {
            "data": {"path": data},
            "model": {"backbone": tiny, "weights": "none", "channels": channels},
            "train": {"strategy": "full", "epochs": 14, "batch_size": 12, "augment": "none", "lr": 0.02},
            "export": {"targets": list(targets), "precisions": ["fp32", "int8"]},
        }
    )
    _, trained = pipeline.train(recipe)
    assert trained.history.best.val_top1 > 0.8
    trained.checkpoint.save(tmp_path / "checkpoint")
    pipeline.export_checkpoint(open_checkpoint(tmp_path / "checkpoint"), data, out, recipe.export)
    report = pipeline.verify_bundle(out, data, VerifyOptions(latency_seconds=0)).report
    assert report.verdict.passed
    assert report.reference.n == 120
    parity = {variant.id: variant.parity for variant in report.variants}
    assert set(parity) == {f"{target}.{kind}" for target in targets for kind in ("fp32", "int8")}
    for variant, found in parity.items():
        assert found is not None
        assert found.top1_agreement >= (1.0 if variant.endswith("fp32") else 0.95), variant
        assert found.sqnr_db > (90 if variant.endswith("fp32") else 22), variant
    check_bundle(out, channels)

    fresh = {kind: pictures(kind, 1, channels, seed=9)[0] for kind in KINDS}
    for variant in parity:
        with load(out, variant=variant) as classifier:
            assert [classifier.predict(array).top.id for array in fresh.values()] == list(KINDS)
    np.save(tmp_path / "checks.npy", fresh["checks"])
    assert run_on_device(["predict", str(out), str(tmp_path / "checks.npy"), "--variant", "onnx.int8"]) == 0
    assert "checks" in capsys.readouterr().out


def check_bundle(path: Path, channels: int) -> None:
    opened = open_bundle(path)
    opened.check()
    manifest, golden = opened.manifest, opened.golden()
    assert manifest.input.shape == (1, TINY_SIZE, TINY_SIZE, channels)
    assert manifest.preprocess.channels == channels
    assert len(manifest.normalize.mean) == len(manifest.normalize.std) == channels
    assert golden is not None
    assert golden.tensors.shape == (16, TINY_SIZE, TINY_SIZE, channels)
    assert all(name.endswith(".png") for name in golden.names)
    assert self_test(opened).passed


def test_golden_samples_of_other_channels_are_arrays(tiny: str, tmp_path: Path) -> None:
    spec, normalize = preset(tiny, channels=6)
    checkpoint = Checkpoint.of(
        build(tiny, 3, channels=6),
        backbone=tiny,
        labels=tuple(Label(kind, kind) for kind in KINDS),
        preprocess=spec,
        normalize=normalize,
    )
    images = pictures("checks", 2, 6, seed=0)
    golden = write_golden(tmp_path, source_of(checkpoint, "six"), list(images))
    assert [entry.path for entry in golden.images] == ["golden/00.npy", "golden/01.npy"]
    with np.load(tmp_path / golden.expected.path) as expected:
        for index, image in enumerate(images):
            np.testing.assert_array_equal(np.load(tmp_path / golden.images[index].path), image)
            np.testing.assert_array_equal(expected["tensors"][index], preprocess(image, spec))


def test_every_kind_of_backbone_takes_other_channels() -> None:
    for name in ("mobilenet_v3_small", "squeezenet1_1", "resnet18", "shufflenet_v2_x0_5", "regnet_y_400mf"):
        model = build(name, 2, channels=5).eval()
        assert first_convolution(model)[1].in_channels == 5
        assert model(torch.zeros(1, 5, 64, 64)).shape == (1, 2)
        assert infer_channels(dict(model.state_dict()), name) == 5
    for name in ("googlenet", "inception_v3"):
        with pytest.raises(UsageError, match="changing the statistics of RGB"):
            build(name, 2, channels=1)
        with pytest.raises(UsageError, match="changing the statistics of RGB"):
            preset(name, channels=4)
    with pytest.raises(UsageError, match="0 channels"):
        build("resnet18", 2, channels=0)


def test_random_weights_keep_their_scale() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 12, 64, 64)
    spread = [
        float(first_convolution(build("resnet18", 2, channels=channels))[1](images[:, :channels]).std().detach())
        for channels in (3, 1, 12)
    ]
    assert spread[1] == pytest.approx(spread[0], rel=0.1)
    assert spread[2] == pytest.approx(spread[0], rel=0.1)


def test_weights_for_rgb_give_the_same_for_channels_that_are_alike() -> None:
    torch.manual_seed(0)
    weight, grey = torch.randn(8, 3, 3, 3), torch.randn(2, 1, 9, 9)
    wanted = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(F.conv2d(grey, adapt_channels(weight, 1)), wanted)
    torch.testing.assert_close(F.conv2d(grey.expand(-1, 6, -1, -1), adapt_channels(weight, 6)), wanted)
    four = adapt_channels(weight, 4)
    torch.testing.assert_close(four, weight[:, [0, 1, 2, 0]] * 0.75)
    assert torch.equal(adapt_channels(weight, 3), weight)


def test_published_weights_are_adapted_and_those_of_a_checkpoint_are_not() -> None:
    name = "mobilenet_v3_small"
    torch.manual_seed(0)
    published, grey = dict(build(name, 4).state_dict()), build(name, 2, channels=1)
    key = "features.0.0.weight"
    before = published[key].clone()
    said = fit(grey, published, name, where="x")
    assert said == (
        "head of 4 outputs replaced by one of 2; first layer adapted from 3 channels to 1: its weights are summed up"
    )
    torch.testing.assert_close(grey.state_dict()[key], before.sum(1, keepdim=True))
    assert torch.equal(published[key], before)
    again = build(name, 2, channels=1)
    assert fit(again, dict(grey.state_dict()), name, where="x") == "loaded whole"
    assert torch.equal(again.state_dict()[key], grey.state_dict()[key])
    with pytest.raises(CheckpointError, match=r"features.0.0.weight is \[16, 3, 3, 3\], not \[16, 1, 3, 3\]"):
        fit(build(name, 4, channels=1), published, name, where="x", keep_head=True)


def test_a_weights_file_knows_its_channels(tmp_path: Path) -> None:
    name = "mobilenet_v3_small"
    file = tmp_path / "grey.safetensors"
    save_file(build(name, 3, channels=1).state_dict(), file)
    assert input_channels(ModelOptions(name, str(file))) == 1
    assert input_channels(ModelOptions(name, str(file), channels=3)) == 3
    assert input_channels(ModelOptions(name, "none")) == 3
    opened = open_checkpoint(file, backbone=name)
    assert opened.preprocess.channels == 1
    assert open_checkpoint(file, backbone=name, channels=1).normalize == opened.normalize
    with pytest.raises(CheckpointError, match="for images of 1 channels, not 4"):
        open_checkpoint(file, backbone=name, channels=4)
    opened.save(tmp_path / "checkpoint")
    assert open_checkpoint(tmp_path / "checkpoint").preprocess == opened.preprocess
    with pytest.raises(UsageError, match="--channels"):
        open_checkpoint(tmp_path / "checkpoint", channels=1)


def test_a_teacher_sees_what_its_student_sees(tmp_path: Path) -> None:
    save_file(build("mobilenet_v3_small", 3, channels=1).state_dict(), tmp_path / "grey.safetensors")
    options = TrainOptions(strategy="last:1", teacher=f"mobilenet_v3_small:{tmp_path / 'grey.safetensors'}")
    labels = [Label(kind, kind) for kind in KINDS]
    assert open_teacher(options, labels, 1, torch.device("cpu")) is not None
    with pytest.raises(UsageError, match="takes images of 1 channels, not 3"):
        open_teacher(options, labels, 3, torch.device("cpu"))


def test_the_normalisation_goes_with_the_channels() -> None:
    (mean,), (std,) = (getattr(preset("resnet18", channels=1)[1], name) for name in ("mean", "std"))
    assert mean == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert std == pytest.approx((0.229 + 0.224 + 0.225) / 3)
    assert preset("resnet18", channels=4)[1].mean == (0.485, 0.456, 0.406, 0.485)


def test_arrays_are_photos_where_images_have_not_three_channels(tmp_path: Path) -> None:
    data = write_pictures(tmp_path, 4, n=8)
    four = Preprocess(8, (8, 8), channels=4)
    assert len(load_photos(data, spec=four)) == 24
    assert len(load_photos(data)) == 12
    assert len(load_labelled(data, [Label(kind, kind) for kind in KINDS], spec=four)[0]) == 24
    np.save(data / "plain" / "01.npy", np.zeros((9, 9, 3), np.uint8))
    (data / "plain" / "03.npy").write_bytes(b"cut off")
    Image.new("RGB", (9, 9)).save(data / "plain" / "00.png")
    with pytest.raises(DataError, match="3 images") as caught:
        load_dataset(data, spec=four)
    for name, said in (("01.npy", r"\(H, W, 4\)"), ("03.npy", "magic"), ("00.png", "3 channels")):
        assert re.search(f"{name}: .*{said}", caught.value.what)
    left = load_dataset(data, DataOptions(skip_bad=True), spec=four)
    assert (len(left.train) + len(left.val), len(left.bad)) == (21, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_worst_images_are_shown_whatever_their_channels(channels: int) -> None:
    spec = Preprocess(8, (8, 8), channels=channels)
    labels = (Label("a", "a"), Label("b", "b"))
    bundle = cast(
        "Bundle", SimpleNamespace(manifest=SimpleNamespace(task="classification", labels=labels, preprocess=spec))
    )
    samples = [Sample(np.zeros((9, 9, channels), np.uint8), 0, "odd")]
    metric = LogitsMetric("logits", ["a", "b"], 1)
    metric.update(samples, {"logits": np.array([[0.0, 1.0]], np.float32)})
    answers = cast("Outputs", SimpleNamespace(original=metric, variants={}))
    (worst,) = Measuring(bundle, Path(), samples, answers, VerifyOptions()).details().report["original"].worst
    assert worst.thumbnail is not None


def test_what_an_image_shows_is_seen_in_its_thumbnail() -> None:
    pixels = np.zeros((20, 20, 5), np.uint8)
    pixels[:, :, 1] = 200
    uri = Thumbnails(channels=5)(Sample(pixels, 0, "a"))
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as shown:
        red, green, blue = np.asarray(shown)[48, 48].tolist()
    assert green > 190
    assert max(red, blue) < 10
    assert Thumbnails(channels=1)(Sample(pixels[:, :, :1], 0, "a")) is not None


def test_grey_images_have_no_colour_order_to_be_wrong() -> None:
    images = np.zeros((2, 8, 8, 1), np.uint8)
    causes = {change.cause for change in _image_changes(images)}
    assert "the image is mirrored" in causes
    assert not [cause for cause in causes if "colour order" in cause or "layout" in cause]
    assert any("layout" in change.cause for change in _image_changes(np.zeros((2, 8, 8, 4), np.uint8)))
