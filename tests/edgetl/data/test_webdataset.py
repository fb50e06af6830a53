"""WebDataset shards: read in place, indexed once, and every damage named."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetl.data.webdataset as shards_module
from edgetl.data.dataset import DataOptions, load_dataset, load_labelled, load_photos
from edgetl.data.loader import Pixels, evaluation_batches
from edgetl.data.webdataset import ShardImage, find_shards, read_shards
from edgetl_export import CalibrationSamples
from edgetl_runtime import DataError, Label, Preprocess, preprocess
from edgetl_runtime.npy import write_npy

SPEC = Preprocess(8, (8, 8))


def photo(level: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (level, 0, 255 - level)).save(content, kind)
    return content.getvalue()


def write_shard(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def samples(start: int, n: int) -> dict[str, bytes]:
    """Two labels in turns."""
    found: dict[str, bytes] = {}
    for index in range(start, start + n):
        found[f"{index:04d}.cls"] = [b"bus", b"car\n"][index % 2]
        found[f"{index:04d}.png"] = photo(index)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write_shard(tmp_path / "set" / f"{number:03d}.tar", samples(8 * number, 8))
    return tmp_path / "set"


def test_shards_are_a_data_set(folder: Path) -> None:
    data = load_dataset(folder)
    assert [label.id for label in data.labels] == ["bus", "car"]
    assert (len(data.train), len(data.val)) == (20, 4)
    first = next(sample for sample in data.train if sample.name.endswith("0002.png"))
    assert (first.name, first.label) == ("000.tar/0002.png", 0)
    np.testing.assert_array_equal(preprocess(first.source, SPEC), preprocess(photo(2), SPEC))
    (pixels, labels), *_ = evaluation_batches(Pixels(data.train, SPEC, kind="eval", cache=False), 32)
    for sample, row, label in zip(data.train, pixels.numpy(), labels.tolist(), strict=True):
        np.testing.assert_array_equal(row, preprocess(photo(int(sample.name[8:12])), SPEC))
        assert label == sample.label
    assert load_dataset(folder).fingerprint == data.fingerprint


def test_an_unpacked_set_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    for index in range(24):
        file = tmp_path / "plain" / ["bus", "car"][index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(index))
    sources = [[sample.source for sample in load_photos(path)] for path in (folder, tmp_path / "plain")]
    contents = [sorted(CalibrationSamples([one] * 8, SPEC).fingerprint for one in some) for some in sources]
    assert contents[0] == contents[1]


def test_splits_are_folders_or_words(folder: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        for number in numbers:
            write_shard(tmp_path / "a" / split / f"{number}.tar", samples(8 * number, 8))
            write_shard(tmp_path / "b" / f"cars-{split}-{number:06d}.tar", samples(8 * number, 8))
    for name in ("a", "b"):
        data = load_dataset(tmp_path / name, DataOptions(min_per_class=4))
        assert (len(data.train), len(data.val)) == (16, 8)
        assert len(load_photos(tmp_path / name)) == 16
        found, split = load_labelled(tmp_path / name, data.labels)
        assert (len(found), split) == (8, "val")
    write_shard(tmp_path / "b" / "more.tar", samples(90, 2))
    with pytest.raises(DataError, match=r"do not: more\.tar"):
        load_dataset(tmp_path / "b")


def test_a_pattern_names_shards(folder: Path) -> None:
    assert [shard.name for shard in find_shards(folder / "{000..002}.tar")] == ["000.tar", "001.tar", "002.tar"]
    assert len(load_photos(folder / "{000..001}.tar")) == 16
    assert len(load_photos(folder / "001.tar")) == 8
    assert find_shards(folder / "{0..0}0{1..2}.tar") == [folder / "001.tar", folder / "002.tar"]
    with pytest.raises(DataError, match=r"2 shards .* are missing: .*003\.tar"):
        load_photos(folder / "{000..004}.tar")


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"cls": b"7"}, "7"),
        ({"label": b"bus "}, "bus"),
        ({"txt": b"bus", "cls": b"car"}, "car"),
        ({"json": b'{"width": 3, "label": "bus"}'}, "bus"),
        ({"json": b'{"class": 12}'}, "12"),
        ({"json": b'"bus"'}, "bus"),
        ({"json": b'{"caption": "a bus"}', "txt": b"car"}, "car"),
    ],
)
def test_labels_stand_in_several_kinds_of_members(members: dict[str, bytes], label: str, tmp_path: Path) -> None:
    named = {f"a/b.c/01.{kind}": content for kind, content in members.items()}
    shard = write_shard(tmp_path / "s.tar", {**named, "a/b.c/01.jpg": photo(1, "JPEG"), "a/b.c/01.seg.bin": b"x"})
    (found,) = read_shards([shard], channels=3, labelled=True)[0].items()
    assert found[0] == label
    assert found[1][0].read_bytes() == photo(1, "JPEG")


def test_arrays_are_images_of_other_channels(tmp_path: Path) -> None:
    array = np.arange(4 * 12 * 10, dtype=np.uint8).reshape(12, 10, 4)
    shard = write_shard(
        tmp_path / "s.tar", {"1.npy": write_npy(array), "1.cls": b"x", "2.png": photo(2), "2.cls": b"y"}
    )
    spec = Preprocess(8, (8, 8), channels=4)
    (image,) = load_photos(shard, spec=spec)[:1]
    np.testing.assert_array_equal(preprocess(image.source, spec), preprocess(array, spec))
    assert [sample.name for sample in load_photos(shard)] == ["s.tar/2.png"]


def test_the_index_is_kept_until_the_shard_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_photos(folder)
    walked: list[str] = []
    walk = shards_module._walked
    monkeypatch.setattr(shards_module, "_walked", lambda shard: walked.append(shard.name) or walk(shard))
    assert [s.source for s in load_photos(folder)] == [s.source for s in before]
    assert walked == []
    write_shard(folder / "001.tar", samples(30, 10))
    assert len(load_photos(folder)) == 26
    assert walked == ["001.tar"]
    kept = list((shards_module.own_cache("shards") or folder).iterdir())
    for file in kept:
        file.write_text('{"images": [["a.png", 0, 9]]}')
    assert len(load_photos(folder)) == 26
    assert len(walked) == 4


def damaged(content: bytes, how: str) -> bytes:
    second = 8 * 1024  # blocks of 512: header and content of .cls and .png
    return {
        "cut in an image": content[: 3 * 512 + 20],
        "cut in a header": content[: 4 * 512 + 100],
        "cut between": content[: 4 * 512],
        "header": content[:second] + b"\xff" * 512 + content[second + 512 :],
        "joined": content + content,
        "no tar": b"x" * 4096,
        "zipped": b"\x1f\x8b" + content[2:],
        "empty": b"",
    }[how]


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("cut in an image", "0000.png"),
        ("cut in a header", "0000.png"),
        ("cut between", "0000.png"),
        ("header", "0003.png"),
        ("joined", "0007.png"),
        ("no tar", "its beginning"),
        ("zipped", "its beginning"),
        ("empty", "its beginning"),
    ],
)
def test_a_damaged_shard_is_named_with_its_member(how: str, where: str, folder: Path) -> None:
    path = folder / "001.tar"
    content = write_shard(path, samples(0, 8)).read_bytes()
    path.write_bytes(damaged(content, how))
    with pytest.raises(DataError, match=rf"001\.tar .*{where}") as caught:
        load_dataset(folder)
    assert caught.value.fix


def test_a_sample_is_one_image_with_a_label(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": photo(1), "b.cls": b"x"})
    with pytest.raises(DataError, match=r"s\.tar: a\.png has no label"):
        load_dataset(shard)
    assert len(load_photos(shard)) == 1
    write_shard(shard, {"a.png": photo(1), "a.jpg": photo(2, "JPEG"), "a.cls": b"x"})
    with pytest.raises(DataError, match=r"two images of one sample: a\.png and a\.jpg"):
        load_photos(shard)
    for content in (b"\xff\xfe", b"x" * 2000):
        write_shard(shard, {"a.png": photo(1), "a.cls": content})
        with pytest.raises(DataError, match=r"s\.tar: a\.cls"):
            load_photos(shard)


def test_a_damaged_image_inside_is_found_and_may_be_left_out(folder: Path) -> None:
    write_shard(folder / "003.tar", {**samples(40, 8), "0041.png": photo(41)[:45]})
    with pytest.raises(DataError, match=r"1 image .*\n  .*003\.tar/0041\.png"):
        load_dataset(folder)
    data = load_dataset(folder, DataOptions(skip_bad=True))
    assert [bad.path.name for bad in data.bad] == ["003.tar/0041.png"]
    assert len(data.train) + len(data.val) == 31


def test_a_shard_that_shrinks_or_goes_is_noticed(folder: Path) -> None:
    source = load_labelled(folder, [Label("bus", "bus"), Label("car", "car")])[0][-1].source
    assert isinstance(source, ShardImage)
    source.shard.write_bytes(source.shard.read_bytes()[: source.offset + 5])
    with pytest.raises(DataError, match=rf"002\.tar ends inside {source.member}"):
        preprocess(source, SPEC)
    source.shard.unlink()
    with pytest.raises(DataError, match="cannot read"):
        preprocess(source, SPEC)


@pytest.mark.parametrize(
    "pattern", ["{0..99999999999}.tar", "{0..9999}{0..9999}.tar", "{0..999999}/{0..1}.tar", "{9..0}.tar"]
)
def test_a_pattern_of_too_many_shards_is_refused_at_once(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shards, not for 1 to"):
        find_shards(tmp_path / pattern)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"label": ' + b"9" * 5000 + b"}", b"\xff{"])
def test_senseless_labels_name_the_member(content: bytes, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {"a.png": photo(1), "a.json": content})
    with pytest.raises(DataError, match=r"s\.tar: a\.json is no label"):
        load_photos(shard)


def test_members_that_are_left_out_are_counted(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", {**samples(0, 12), "0100.heic": b"x", "0100.cls": b"bus", "0101.bin": b"y"})
    data = load_dataset(shard)
    assert data.left_out == {".heic": 1, ".bin": 1}
    assert load_dataset(shard).left_out == data.left_out  # from the index that is kept


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a/train-0.tar", "a/training-1.tar", "a/val-0.tar"), "two names for the train split"),
        (("a/train-val-0.tar",), "says several splits: train, val"),
        (("train/0.tar", "Training/0.tar"), "two names for the train split"),
        (("0.tar", "rose/a.png"), "beside images that are in none"),
        (("train/0.tar", "val/rose/a.png"), "none in val"),
        (("train.tar", "train/rose/a.png"), "beside images that are in none"),
        (("train/0.tar", "train/rose/a.png"), "beside images that are in none"),
        (("train/0.tar", "val/0.tar", "roses/a.png"), "beside images that are in none"),
    ],
)
def test_shards_that_would_be_merged_or_hide_images(names: tuple[str, ...], says: str, tmp_path: Path) -> None:
    for number, name in enumerate(names):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".tar"):
            write_shard(tmp_path / "set" / name, samples(20 * number, 12))
        else:
            (tmp_path / "set" / name).write_bytes(photo(1))
    root = tmp_path / "set" / "a" if names[0].startswith("a/") else tmp_path / "set"
    for read in (load_dataset, load_photos):
        with pytest.raises(DataError, match=says) as caught:
            read(root)
        assert caught.value.fix


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_is_no_shard(folder: Path) -> None:
    os.mkfifo(folder / "999.tar")
    with pytest.raises(DataError, match="no regular file"):
        load_photos(folder)
