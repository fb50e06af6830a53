"""Photos with their masks: paired by name, or by what a file of outlines says."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgetl.data.coco import CocoAnnotation, CocoImage, read_coco
from edgetl.data.coco_files import coco_photos
from edgetl.data.image_files import ImageFile, Tree, walk
from edgetl.data.yolo_yaml import YOLO_YAML, read_yolo_yaml
from edgetl.tasks.segmentation.label_files import MaskLabels, find_labels, read_names
from edgetl.tasks.segmentation.layouts import Layout, Part
from edgetl.tasks.segmentation.mask_files import Mask, MaskFile, MaskOutlines, Shape
from edgetl.tasks.segmentation.run_lengths import decoded_runs
from edgetl_runtime.errors import DataError
from edgetl_runtime.files import open_regular, read_regular

__all__ = ["Found", "Pair", "find_pairs", "upright_size"]

_ENDINGS = ("", "_l", "_mask", "_masks", "_label", "_labels", "_seg", "_gt", "_labelids")
"""What follows the name of a photo in that of its mask."""
_BACKGROUND = ("background", "_background_")
"""What a label of its own for all that is no object is called."""
_SHOWN = 5
_LARGEST_TEXT = 2**24
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class Pair:
    """A photo and its mask."""

    photo: ImageFile
    mask: Mask


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs by split (``"all"`` where none are told apart), the names of the labels in the order of their values, the
    files that are neither photo nor mask, counted by ending, and sentences on how it was read."""

    splits: Mapping[str, Sequence[Pair]]
    labels: tuple[str, ...]
    left_out: Counter[str]
    remarks: tuple[str, ...] = ()


def find_pairs(layout: Layout, known: Sequence[str], *, channels: int) -> Found:
    """The photos and masks of a data set that is laid out so.

    Args:
        layout: Where they are.
        known: Names of the labels of a model that is to be judged; empty where the data set's own are wanted.
        channels: Of the images.

    Raises:
        DataError: A photo has no mask, or a file of labels or outlines is not what it should be.
    """
    if layout.kind == "coco":
        return _of_coco(layout, known)
    first = 0
    if layout.kind == "masks":
        labels = find_labels(layout.folders)
    else:
        labels, first = _yolo_labels(layout.folders)
    if labels is None and known:
        labels = MaskLabels(tuple(known))
    if labels is None and layout.kind == "yolo":
        raise DataError(
            f"{layout.folders[0]} has no names in data.yaml: what are the classes of its outlines called?",
            fix="data.yaml with a line of names: [first, second]; or labels.txt with one name a line",
        )
    if labels is None:
        raise DataError(
            f"{layout.folders[0]} has no labels.txt: what do the values of its masks mean?",
            fix="labels.txt with one name a line, that of value 0 first; for colours class_dict.csv with name,r,g,b",
        )
    left_out: Counter[str] = Counter()
    remarks = list(labels.remarks)
    splits = {}
    for split, part in layout.parts.items():
        tree = walk(part.photos, channels=channels)
        left_out += tree.others
        if layout.kind == "masks":
            splits[split], unused = _by_name(tree, part, labels)
            if unused:
                remarks.append(f"{len(unused)} masks have no photo: {_some(unused)}")
        else:
            splits[split] = [_with_outlines(photo, part, len(labels.names), first) for photo in tree.images]
    return Found(splits, labels.names, left_out, tuple(remarks))


def upright_size(photo: ImageFile) -> tuple[int, int]:
    """(width, height) of a photo as it is seen, from its header. Raises `DataError` for one that cannot be read."""
    try:
        opened = open_regular(photo) if isinstance(photo, Path) else io.BytesIO(photo.read_bytes())
        with opened as file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {photo}: {' '.join(str(error).split())}", fix="repair or remove it") from None
    return (height, width) if turned else (width, height)


def _by_name(tree: Tree, part: Part, labels: MaskLabels) -> tuple[list[Pair], list[str]]:
    """Photos with the masks of the same path, and the masks that no photo has."""
    masks: dict[str, Path] = {}
    for file in walk(part.masks).images:
        key = _key(file, part.masks)
        if key in masks:
            raise DataError(f"{file} and {masks[key].name} are two masks of one photo", fix="keep one of them")
        masks[key] = file
    pairs: list[Pair] = []
    lacking: list[Path] = []
    used: dict[str, Path] = {}
    for photo in tree.images:
        stem = _key(photo, part.photos)
        own = next((stem + ending for ending in _ENDINGS if stem + ending in masks), None)
        if own is None:
            lacking.append(photo)
            continue
        if own in used:
            raise DataError(f"{photo} and {used[own].name} have one mask, {masks[own]}", fix="other names")
        used[own] = photo
        pairs.append(Pair(photo, MaskFile(masks[own], len(labels.names), labels.colours)))
    if lacking:
        more = f" and {len(lacking) - 1} more photos have none" if len(lacking) > 1 else ""
        raise DataError(
            f"{lacking[0]} has no mask in {part.masks}{more}",
            fix=f"a mask of the same name: {part.masks / lacking[0].stem}.png; or move the photo elsewhere",
        )
    return pairs, [file.name for key, file in masks.items() if key not in used]


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix().casefold()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _of_coco(layout: Layout, known: Sequence[str]) -> Found:
    files = {split: read_coco(part.masks) for split, part in layout.parts.items()}
    named = {split: file.labels for split, file in files.items()}
    names = next(iter(named.values()))
    if any(other != names for other in named.values()):
        raise DataError(
            f"the files of {layout.folders[0]} have other categories: {named}", fix="the same categories in all of them"
        )
    outlined = {names[one.label] for file in files.values() for image in file.images for one in image.annotations}
    background = next((name for name in names if name.casefold() in _BACKGROUND), _BACKGROUND[0])
    labels = (background, *(name for name in names if name in outlined and name != background))
    if known and set(labels) <= set(known):
        labels = tuple(known)
    unused = [name for name in names if name not in labels]
    remarks = (f"categories without an outline are left out: {_some(unused)}",) if unused else ()
    indices = [labels.index(name) if name in labels else 0 for name in names]
    splits = {}
    for split, file in files.items():
        photos = coco_photos(layout.parts[split].photos, file)
        splits[split] = [
            Pair(photo, MaskOutlines(image.size, tuple(_shapes(image, indices, file.where)), str(file.path)))
            for image, photo in zip(file.images, photos, strict=True)
        ]
    return Found(splits, labels, Counter(), remarks)


def _shapes(
    image: CocoImage, indices: Sequence[int], where: Callable[[CocoAnnotation], str]
) -> Iterator[tuple[int, tuple[Shape, ...]]]:
    """Label and parts of every object, the larger first: what is small lies on top.

    ``indices`` are the labels of the file's categories.
    """
    for annotation in sorted(image.annotations, key=_area, reverse=True):
        if annotation.rle is not None:
            try:
                yield indices[annotation.label], (decoded_runs(annotation.rle, image.size),)
            except ValueError as error:
                raise DataError(f"{where(annotation)}: {error}", fix="export the annotations again") from None
        elif annotation.polygons:
            yield indices[annotation.label], annotation.polygons
        else:
            raise DataError(
                f"{where(annotation)}: an object without an outline: its box says nothing of its pixels",
                fix="export outlines, or use --task detection",
            )


def _area(annotation: CocoAnnotation) -> float:
    left, top, right, bottom = annotation.box
    return (right - left) * (bottom - top)


def _yolo_labels(folders: Sequence[Path]) -> tuple[MaskLabels | None, int]:
    """The names with a background before them, and the label of class 0.

    YOLO's files do not count a background, unless ``data.yaml`` does.
    """
    written = read_names(folders)
    if written is not None and written.names[0].casefold() in _BACKGROUND:
        return written, 1
    file = next((folder / name for folder in folders for name in YOLO_YAML if (folder / name).is_file()), None)
    names = written.names if written else read_yolo_yaml(file)[1] if file else ()
    if not names:
        return None, 1
    if names[0].casefold() in _BACKGROUND:
        return MaskLabels(names), 0
    return MaskLabels((_BACKGROUND[0], *names)), 1


def _with_outlines(photo: Path, part: Part, labels: int, first: int) -> Pair:
    """A photo with the outlines of its text file, whose class 0 is the label `first`. Where there is none, it shows the
    background alone."""
    file = part.masks / photo.relative_to(part.photos).with_suffix(".txt")
    width, height = size = upright_size(photo)
    shapes = []
    lines = (
        read_regular(file, limit=_LARGEST_TEXT).decode("utf-8-sig", "replace").splitlines() if file.is_file() else []
    )
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, corners = _outline(line, f"{file}:{number}")
        if not 0 <= label < labels - first:
            beside = " beside the background" if first else ""
            raise DataError(
                f"{file}:{number}: class {label}; there are {labels - first}{beside}, from 0",
                fix="name all of them in data.yaml, or in labels.txt",
            )
        shapes.append((label + first, (tuple((x * width, y * height) for x, y in corners),)))
    return Pair(photo, MaskOutlines(size, tuple(shapes), str(file)))


def _outline(line: str, where: str) -> tuple[int, list[tuple[float, float]]]:
    """Class and corners, as shares of width and height."""
    words = line.split()
    try:
        label, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise DataError(f"{where}: not numbers: {line.strip()!r:.80}", fix="class x y x y ...") from None
    if len(numbers) == 4:
        raise DataError(f"{where}: a box, no outline", fix="export outlines, or use --task detection")
    if len(numbers) < 6 or len(numbers) % 2 or not all(-1.0 <= number <= 2.0 for number in numbers):
        raise DataError(
            f"{where}: not an outline of three corners or more", fix="class x y x y ..., shares of the sides"
        )
    return label, list(zip(numbers[::2], numbers[1::2], strict=True))
