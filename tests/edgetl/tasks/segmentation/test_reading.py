"""Photos with masks in every layout, and what is said of those that do not fit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetl.data.dataset import USUAL, Dataset
from edgetl.data.options import DataOptions
from edgetl.tasks.segmentation.mask_files import IGNORED
from edgetl.tasks.segmentation.reading import label_counts, mask_of, read_masks, read_masks_labelled, truth_of
from edgetl.tasks.segmentation.run_lengths import decoded_runs
from edgetl.tasks.task import Judging
from edgetl_export.progress import silent
from edgetl_runtime.errors import DataError
from edgetl_runtime.manifest import Label
from tests.edgetl.tasks.segmentation import scenes

LABELS = tuple(Label(name, name) for name in scenes.NAMES)


def read(path: Path, **options: object) -> Dataset:
    return read_masks(path, DataOptions(**options), spec=USUAL, track=silent)


@pytest.mark.parametrize(
    "write",
    [
        scenes.with_values,
        lambda root: scenes.with_values(root, palette=True),
        scenes.with_colours,
        lambda root: scenes.with_colours(root, "label_colors.txt"),
        lambda root: scenes.with_colours(root, "labelmap.txt"),
        scenes.with_coco,
        scenes.with_yolo,
    ],
)
def test_every_layout_of_a_scene_gives_the_same_labels(write: Callable[[Path], Path], tmp_path: Path) -> None:
    data = read(write(tmp_path / "scene"))
    assert [label.name for label in data.labels] == list(scenes.NAMES)
    assert (len(data.train), len(data.val), data.task) == (3, 3, "segmentation")
    for sample in (*data.train, *data.val):
        assert np.array_equal(truth_of(sample), scenes.mask_of_scene())
        assert sample.label == 2  # the dog has fewest pixels
    assert not data.remarks


def test_splits_in_folders_of_images_and_of_masks(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            target = tmp_path / "other" / kind / split
            target.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind).rename(target)
    (tmp_path / "labels.txt").rename(tmp_path / "other" / "labels.txt")
    assert len(read(tmp_path / "other").val) == 3


def test_without_splits_some_photos_are_held_out(tmp_path: Path) -> None:
    scenes.with_values(tmp_path, [""], n=10)
    first, again, other = (read(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert (len(first.train), len(first.val)) == (8, 2)
    names = [{sample.name for sample in data.val} for data in (first, again, other)]
    assert names[0] == names[1] != names[2]
    assert first.fingerprint == again.fingerprint


def test_the_fingerprint_is_also_over_the_masks(tmp_path: Path) -> None:
    before = read(scenes.with_values(tmp_path)).fingerprint
    scenes.save(Image.fromarray(1 - np.minimum(scenes.mask_of_scene(), 1)), tmp_path / "train" / "masks" / "0.png")
    assert read(tmp_path).fingerprint != before


def test_masks_to_judge_a_model_on(tmp_path: Path) -> None:
    told: list[str] = []
    judging = Judging(USUAL, tell=told.append)
    scenes.with_values(tmp_path)
    samples, split = read_masks_labelled(tmp_path, LABELS, judging)
    assert (len(samples), split) == (3, "val")
    assert read_masks_labelled(tmp_path, LABELS, Judging(USUAL, training=True))[1] == "train"
    with pytest.raises(DataError, match="the model's are background, cat"):
        read_masks_labelled(tmp_path, LABELS[:2], judging)
    (tmp_path / "labels.txt").unlink()  # values mean what the model means
    assert len(read_masks_labelled(tmp_path, LABELS, judging)[0]) == 3


def test_a_photo_on_its_side(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = tmp_path / "train" / "images" / "0.png"
    scenes.photo_of(5, (32, 48)).save(photo, exif=exif)
    assert len(read(tmp_path).train) == 3  # upright it is 48 x 32
    scenes.photo_of(5, (48, 32)).save(photo, exif=exif)
    with pytest.raises(DataError, match=r"masks.0\.png has 48x32 pixels.*has 32x48.*stored on its side"):
        read(tmp_path)


def wrong_size(root: Path) -> None:
    scenes.save(Image.fromarray(scenes.mask_of_scene()[:20]), root / "train" / "masks" / "1.png")


def no_mask(root: Path) -> None:
    (root / "val" / "masks" / "2.png").unlink()


def strange_value(root: Path) -> None:
    mask = scenes.mask_of_scene()
    mask[5, 7] = 9
    scenes.save(Image.fromarray(mask), root / "train" / "masks" / "1.png")


def no_image(root: Path) -> None:
    (root / "train" / "masks" / "1.png").write_bytes(b"no image")


def in_colour(root: Path) -> None:
    mask = np.zeros((*scenes.mask_of_scene().shape, 3), np.uint8)
    mask[0, 0] = 0, 1, 2
    scenes.save(Image.fromarray(mask), root / "train" / "masks" / "1.png")


def no_names(root: Path) -> None:
    (root / "labels.txt").unlink()


def lossy(root: Path) -> None:
    """Flat enough that every value comes back as it was: nothing else would tell."""
    (root / "train" / "masks" / "1.png").unlink()
    scenes.save(Image.fromarray(np.zeros((32, 48), np.uint8)), root / "train" / "masks" / "1.jpg")


def twice_named(root: Path) -> None:
    (root / "labels.txt").write_text("a\nb\na\n")


def black_and_white(root: Path) -> None:
    for mask in root.glob("*/masks/*.png"):
        scenes.save(Image.fromarray(np.where(scenes.mask_of_scene() > 0, 255, 0).astype(np.uint8)), mask)
    (root / "labels.txt").write_text("background\nobject\n")


def unreadable_photo(root: Path) -> None:
    (root / "train" / "images" / "0.png").write_bytes(b"no image")


def masks_of_one_split(root: Path) -> None:
    for file in (root / "val" / "masks").iterdir():
        file.unlink()
    (root / "val" / "masks").rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (wrong_size, r"1\.png has 48x20 pixels, its photo .*1\.png has 48x32"),
        (no_mask, r"2\.png has no mask in .*masks"),
        (strange_value, r"1\.png has the value 9 at x = 7, y = 5; there are 3 labels"),
        (no_image, r"cannot read the mask .*1\.png"),
        (in_colour, r"1\.png is a mask of mode RGB"),
        (lossy, r"masks.1\.jpg is a mask saved as a JPEG"),
        (no_names, r"has no labels\.txt"),
        (twice_named, r"labels\.txt has the label 'a' twice"),
        (black_and_white, r"the values 0 and 255 only"),
        (unreadable_photo, r"0\.png"),
        (masks_of_one_split, r"val has no masks"),
    ],
)
def test_what_does_not_fit_is_said_with_the_file(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    damage(scenes.with_values(tmp_path))
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path)
    assert raised.value.fix


def test_values_that_no_label_can_have_get_other_advice(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    scenes.save(Image.fromarray(scenes.mask_of_scene().astype(np.uint16) * 65535), tmp_path / "val" / "masks" / "1.png")
    with pytest.raises(DataError, match="has the value 65535 at") as raised:
        read(tmp_path)
    assert "labels.txt" not in raised.value.fix


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_masks_of_equal_channels_are_their_values(mode: str, tmp_path: Path) -> None:
    wanted = [np.asarray(sample.target) for sample in read(scenes.with_values(tmp_path / "grey")).train]
    root = scenes.with_values(tmp_path / "colour")
    for file in (root / "train" / "masks").glob("*.png"):
        with Image.open(file) as image:
            scenes.save(Image.fromarray(np.asarray(image)).convert(mode), file)
    assert all(
        np.array_equal(np.asarray(sample.target), mask) for sample, mask in zip(read(root).train, wanted, strict=True)
    )


def test_a_colour_that_is_in_no_table(tmp_path: Path) -> None:
    scenes.with_colours(tmp_path)
    scenes.save(Image.new("RGB", scenes.SIZE, (1, 2, 3)), tmp_path / "train_labels" / "0_L.png")
    with pytest.raises(DataError, match=r"0_L\.png has the colour 1, 2, 3 at x = 0, y = 0"):
        read(tmp_path)


def test_void_in_a_table_does_not_count(tmp_path: Path) -> None:
    scenes.with_colours(tmp_path)
    table = tmp_path / "class_dict.csv"
    table.write_text(table.read_text().replace("dog,", "Void,"))
    data = read(tmp_path)
    assert [label.name for label in data.labels] == ["background", "cat"]
    assert IGNORED in truth_of(data.train[0])
    assert "Void" in data.remarks[0]


def test_a_label_that_no_pixel_has_is_told(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    (tmp_path / "labels.txt").write_text("background\ncat\ndog\nfish\n")
    assert read(tmp_path).remarks == ("no pixel of train is fish", "no pixel of val is fish")


def test_of_many_labels_that_no_pixel_has_some_are_named(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join([*scenes.NAMES, *(f"fish {n}" for n in range(30))]))
    assert read(tmp_path).remarks[0].endswith("fish 8, fish 9 and 20 more labels")


def test_photos_to_validate_on_have_the_same_labels(tmp_path: Path) -> None:
    train, val = (scenes.with_values(tmp_path / name, [""]) for name in ("train", "val"))
    assert len(read(train, val=val).val) == 3
    (val / "labels.txt").write_text("background\ndog\ncat\n")
    with pytest.raises(DataError, match="val have the labels background, dog, cat; the model's are background, cat"):
        read(train, val=val)


def test_names_as_labelme_writes_them(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    (tmp_path / "labels.txt").rename(tmp_path / "class_names.txt")
    assert [label.name for label in read(tmp_path).labels] == list(scenes.NAMES)


def test_a_photo_of_which_no_pixel_counts_is_no_obstacle(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    scenes.save(Image.fromarray(np.full_like(scenes.mask_of_scene(), IGNORED)), tmp_path / "train" / "masks" / "1.png")
    data = read(tmp_path)
    counted = np.bincount(scenes.mask_of_scene().reshape(-1))
    assert label_counts(data.train, 3).tolist() == (2 * counted).tolist()


def test_masks_without_a_photo_are_told(tmp_path: Path) -> None:
    scenes.with_values(tmp_path)
    (tmp_path / "train" / "images" / "1.png").unlink()
    data = read(tmp_path)
    assert len(data.train) == 2
    assert data.remarks == ("1 masks have no photo: 1.png",)


def test_unreadable_photos_can_be_left_out(tmp_path: Path) -> None:
    unreadable_photo(scenes.with_values(tmp_path))
    data = read(tmp_path, skip_bad=True)
    assert (len(data.train), len(data.bad)) == (2, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 0.1 0.1 0.2 0.2 0.3 0.1", r"0\.txt:1: class 7; there are 2 beside the background"),
        ("0 0.5 0.5 0.2 0.2", r"0\.txt:1: a box, no outline"),
        ("0 0.5 0.5 0.2 x 0.3 0.3", r"0\.txt:1: not numbers"),
        ("0 0.5 0.5 0.2 0.2 0.3 0.3 0.4", r"0\.txt:1: not an outline"),
    ],
)
def test_yolo_lines_that_are_none(line: str, message: str, tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "0.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_yolo_photo_without_a_file_shows_the_background(tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "0.txt").unlink()
    assert not truth_of(read(tmp_path).train[0]).any()


def test_coco_as_run_lengths(tmp_path: Path) -> None:
    scenes.with_coco(tmp_path)
    file = tmp_path / "instances_train.json"
    content = json.loads(file.read_text())
    inside = scenes.mask_of_scene() == 1
    flat = np.concatenate(([False], inside.T.reshape(-1)))
    edges = np.flatnonzero(np.diff(np.append(flat, not flat[-1]).astype(np.int8)))
    counts = np.diff(np.concatenate(([0], edges))).tolist()
    content["annotations"][0]["segmentation"] = {"size": [32, 48], "counts": counts}
    file.write_text(json.dumps(content))
    assert np.array_equal(truth_of(read(tmp_path).train[0]), scenes.mask_of_scene())
    content["annotations"][0]["segmentation"]["counts"][0] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\[0\]: run lengths of 1537 pixels"):
        read(tmp_path)


def test_coco_as_roboflow_exports_it(tmp_path: Path) -> None:
    """A file beside the photos of each split, and a category above the others that has no outlines."""
    scenes.with_coco(tmp_path)
    for split, folder in (("train", "train"), ("val", "valid")):
        file = tmp_path / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"].insert(0, {"id": 0, "name": "animals"})
        (tmp_path / split).rename(tmp_path / folder)
        file.unlink()
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content))
    data = read(tmp_path)
    assert [label.name for label in data.labels] == list(scenes.NAMES)
    assert (len(data.train), len(data.val)) == (3, 3)
    assert all(np.array_equal(truth_of(sample), scenes.mask_of_scene()) for sample in (*data.train, *data.val))
    assert data.remarks == ("categories without an outline are left out: animals",)


def test_coco_files_name_what_they_have_not(tmp_path: Path) -> None:
    """Photos to judge on may lack a label of the model: indices are the model's."""
    scenes.with_coco(tmp_path)
    file = tmp_path / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 20]
    file.write_text(json.dumps(content))
    wanted = np.where(scenes.mask_of_scene() == 2, 2, 0)
    samples, _ = read_masks_labelled(file, LABELS, Judging(USUAL))
    assert np.array_equal(truth_of(samples[0]), wanted)
    samples, _ = read_masks_labelled(tmp_path, LABELS, Judging(USUAL))
    assert np.array_equal(truth_of(samples[0]), wanted)


def test_a_background_among_cocos_categories_is_the_first_label(tmp_path: Path) -> None:
    scenes.with_coco(tmp_path)
    for file in tmp_path.glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"].append({"id": 30, "name": "background"})
        file.write_text(json.dumps(content))
    data = read(tmp_path)
    assert [label.name for label in data.labels] == list(scenes.NAMES)
    assert np.array_equal(truth_of(data.train[0]), scenes.mask_of_scene())


def test_photos_that_cvat_puts_into_a_folder_of_their_own(tmp_path: Path) -> None:
    scenes.with_coco(tmp_path)
    (tmp_path / "cvat" / "annotations").mkdir(parents=True)
    (tmp_path / "cvat" / "images").mkdir()
    (tmp_path / "instances_train.json").rename(tmp_path / "cvat" / "annotations" / "instances_default.json")
    (tmp_path / "train").rename(tmp_path / "cvat" / "images" / "default")
    data = read(tmp_path / "cvat")
    assert len(data.train) + len(data.val) == 3


def test_outlines_name_no_photos_elsewhere(tmp_path: Path) -> None:
    scenes.with_coco(tmp_path)
    file = tmp_path / "instances_train.json"
    file.write_text(file.read_text().replace('"1.png"', '"../val/1.png"'))
    with pytest.raises(DataError, match="leads out of"):
        read(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        "names: ['cat', 'dog']",
        "names: ['cat',\n  'dog']  # two",
        "names: {0: cat, 1: 'dog'}",
        "names:  # by number\n  0: cat # small\n  1: dog\n",
        "names:\n- cat\n- dog\n",
    ],
)
def test_names_of_yolo_in_every_way_of_writing_them(names: str, tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: train/images\n\n# Classes\nnc: 2\n{names}\n\ndownload: x\n")
    data = read(tmp_path)
    assert [label.name for label in data.labels] == list(scenes.NAMES)
    assert np.array_equal(truth_of(data.train[0]), scenes.mask_of_scene())


def test_a_background_among_yolos_names_has_a_number(tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [background, cat, dog]\n")
    for file in tmp_path.glob("*/labels/*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(f"{int(line[0]) + 1}{line[1:]}" for line in lines))
    assert np.array_equal(truth_of(read(tmp_path).train[0]), scenes.mask_of_scene())


def test_what_a_training_by_yolo_left_is_no_mask(tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for split in ("train", "val"):
            (tmp_path / split / kind).rename(tmp_path / kind / split)
    (tmp_path / "labels" / "train.cache").write_bytes(b"x")
    assert np.array_equal(truth_of(read(tmp_path).train[0]), scenes.mask_of_scene())


def test_outlines_without_names(tmp_path: Path) -> None:
    scenes.with_yolo(tmp_path)
    for text in ("train: train/images\n", ""):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=r"has no names in data\.yaml"):
            read(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"has no names in data\.yaml"):
        read(tmp_path)


def test_run_lengths_as_pycocotools_writes_them() -> None:
    inside = [[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]]
    for counts in ([4, 1, 1, 4, 2], "41131"):
        assert decoded_runs({"size": [3, 4], "counts": counts}, (4, 3)).astype(int).tolist() == inside
    for wrong in ("4", "\x00", "P", [12, -1, 1], None):
        with pytest.raises(ValueError, match="run lengths"):
            decoded_runs({"size": [3, 4], "counts": wrong}, (4, 3))
    with pytest.raises(ValueError, match="run lengths of size"):
        decoded_runs({"size": [4, 3], "counts": [12]}, (4, 3))


def test_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def content(image: Image.Image) -> dict[str, object]:
        file = io.BytesIO()
        image.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    rows = {
        "image": [content(scenes.photo_of(index)) for index in range(5)],
        "mask": [content(Image.fromarray(scenes.mask_of_scene())) for _ in range(5)],
    }
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"no labels\.txt"):
        read(tmp_path / "saved")
    (tmp_path / "saved" / "labels.txt").write_text("\n".join(scenes.NAMES))
    data = read(tmp_path / "saved")
    assert (len(data.train), len(data.val)) == (4, 1)
    assert np.array_equal(truth_of(data.train[0]), scenes.mask_of_scene())


@pytest.mark.parametrize("what", ["nowhere", "file.txt"])
def test_paths_that_are_none(what: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=r"does not exist|is not a folder"):
        read(tmp_path / what)
    with pytest.raises(DataError, match="no photos with masks"):
        read(tmp_path)


def test_a_mask_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    data = read(scenes.with_values(tmp_path))
    mask = mask_of(data.train[0])
    assert mask.size == scenes.SIZE
    assert sum(mask.counts) == scenes.SIZE[0] * scenes.SIZE[1]
    assert not np.asarray(data.train[0].target).flags.writeable
