"""The cache: the same network and images are run once, anything else anew, and no state of the disk stops an export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edgetl_export.calibration import CalibrationSamples
from edgetl_export.quantize import cache
from edgetl_export.quantize.cache import calibrate_once
from edgetl_export.quantize.calibrate import Calibration, calibrate
from edgetl_runtime.cache import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from tests.export.conftest import Int8


class Counted:
    """`calibrate`, and how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Calibration:
        self.runs += 1
        return calibrate(*args, **kwargs)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    """A cache of its own for the test, and a count of the calibrations that it did not spare."""
    found = Counted()
    monkeypatch.setattr(cache, "calibrate", found)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return found


def few(int8: Int8, n: int = 16) -> CalibrationSamples:
    return replace(int8.trained.samples, sources=int8.trained.calibration[:n])


def test_the_tests_have_a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path_factory.getbasetemp())


def test_the_second_calibration_is_read_and_is_the_same(int8: Int8, counted: Counted) -> None:
    first = calibrate_once(int8.pixels, few(int8))
    # What another process has: an equal network and equal images, not the same objects.
    equal = replace(int8.pixels, module=copy.deepcopy(int8.pixels.module))
    second = calibrate_once(equal, few(int8))
    assert counted.runs == 1
    assert {method: dict(found) for method, found in second.ranges.items()} == first.ranges
    assert np.array_equal(second.probe, first.probe)
    assert second.probe.dtype == np.uint8
    assert (second.n, second.fingerprint) == (first.n, first.fingerprint)


def test_other_weights_are_calibrated_anew(int8: Int8, counted: Counted) -> None:
    calibrate_once(int8.pixels, few(int8))
    name = next(iter(int8.quantized.quantization.weights))
    changed = int8.pixels.module.get_parameter(name).detach().clone()
    changed.view(-1)[0] += 1e-3
    calibrate_once(int8.pixels.with_parameters({name: changed}), few(int8))
    assert counted.runs == 2


def test_another_graph_with_the_same_weights_is_calibrated_anew(int8: Int8, counted: Counted) -> None:
    calibrate_once(int8.pixels, few(int8))
    module = copy.deepcopy(int8.pixels.module)
    (expand,) = [found for name, found in module.named_modules() if name.endswith("expand")]
    place = next(place for place, child in expand.named_children() if isinstance(child, torch.nn.SiLU))
    expand.set_submodule(place, torch.nn.Hardswish())
    calibrate_once(replace(int8.pixels, module=module), few(int8))
    assert counted.runs == 2


def test_other_images_or_another_preprocessing_are_calibrated_anew(int8: Int8, counted: Counted) -> None:
    samples = few(int8)
    calibrate_once(int8.pixels, samples)
    fewer = few(int8, 15)
    reordered = replace(samples, sources=samples.sources[::-1])
    pixel = samples.sources[0].copy()
    pixel[0, 0, 0] ^= 1
    touched = replace(samples, sources=[pixel, *samples.sources[1:]])
    resized = replace(samples, preprocess=replace(samples.preprocess, resize=40))
    for runs, other in enumerate([fewer, reordered, touched, resized], start=2):
        calibrate_once(int8.pixels, other)
        assert counted.runs == runs


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:100], lambda content: b"", lambda content: b"PK" + content, lambda content: b"text"],
)
def test_a_damaged_file_is_calibrated_anew_and_replaced(
    int8: Int8, counted: Counted, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = calibrate_once(int8.pixels, few(int8))
    (file,) = (tmp_path / "cache" / "calibration").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    found = calibrate_once(int8.pixels, few(int8))
    assert counted.runs == 2
    assert found.ranges == first.ranges
    calibrate_once(int8.pixels, few(int8))
    assert counted.runs == 2


@pytest.mark.slow
def test_every_bit_of_a_damaged_file_counts(int8: Int8, counted: Counted, tmp_path: Path) -> None:
    """A byte that has changed in the middle of the compressed data must not become another calibration."""
    first = calibrate_once(int8.pixels, few(int8))
    (file,) = (tmp_path / "cache" / "calibration").iterdir()
    whole = file.read_bytes()
    for place in range(60, len(whole), len(whole) // 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        found = calibrate_once(int8.pixels, few(int8))
        assert {method: dict(ranges) for method, ranges in found.ranges.items()} == first.ranges, place


def test_a_folder_that_cannot_be_written_is_left_alone(
    int8: Int8, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(blocked / "cache"))
    for runs in (1, 2):
        assert calibrate_once(int8.pixels, few(int8)).n == 16
        assert counted.runs == runs
    assert blocked.read_text() == "not a folder"


def test_an_empty_variable_switches_the_cache_off(
    int8: Int8, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder() is None
    for runs in (1, 2):
        calibrate_once(int8.pixels, few(int8))
        assert counted.runs == runs
    assert list(tmp_path.iterdir()) == []


def test_without_a_variable_it_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgetl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert cache_folder() == tmp_path / "me" / ".cache" / "edgetl"


def test_nothing_is_left_beside_the_file(int8: Int8, counted: Counted, tmp_path: Path) -> None:
    calibrate_once(int8.pixels, few(int8))
    assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".npz"]
