"""Hugging Face data sets on disk: what ``datasets.Dataset.save_to_disk`` wrote, images read from it when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgetl.data.folders import label_name
from edgetl_runtime.decoding import parse
from edgetl_runtime.errors import DataError, MissingDependency
from edgetl_runtime.files import read_regular

__all__ = ["SavedImage", "is_saved_dataset", "load_saved", "read_saved_dataset"]

_Read = TypeVar("_Read")

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_LARGEST = 2**24
"""Bytes of a description."""
_LABEL_NAMES = ("label", "labels", "class")


@dataclass(frozen=True, eq=False)
class SavedImage:
    """The image of one row: ``rows`` has one column, of dictionaries with ``bytes`` and ``path``."""

    rows: Any
    column: str
    index: int
    where: Path

    @property
    def name(self) -> str:
        """For reports: the split's folder and the number of the row."""
        return f"{self.where.name}/{self.index}"

    def __str__(self) -> str:
        return f"{self.where}, row {self.index}"

    def read_bytes(self) -> bytes:
        """The image file. Raises `DataError` for a row without an image, or whose file is gone."""
        try:
            image = self.rows[self.index][self.column]
        except Exception as error:
            raise DataError(f"cannot read {self}: {_in_a_line(error)}", fix="save it again: save_to_disk") from error
        if image is None or (image.get("bytes") is None and image.get("path") is None):
            raise DataError(f"{self} has no image", fix="leave such rows out: Dataset.filter, then save_to_disk")
        if image.get("bytes") is None:
            # A data set that somebody hands over must not say which files of this machine are read.
            raise DataError(
                f"{self} has no image but the name of a file, {image['path']!r:.200}, which is not read",
                fix="save it again where that file is: save_to_disk puts the images in",
            )
        content: bytes = image["bytes"]
        return content


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``, of a Dataset or of a DatasetDict."""
    return (path / _SPLITS).is_file() or ((path / _STATE).is_file() and (path / _INFO).is_file())


def read_saved_dataset(path: Path, *, labelled: bool) -> dict[str, dict[str, list[SavedImage]]]:
    """Split (as it is called there; ``""`` for a plain Dataset) -> label -> images, in the order of the rows.

    The image column is the only one of type Image; the label column is the only ClassLabel, else one called
    ``label``, ``labels`` or ``class``. Where not `labelled`, images without a label are under ``""``.
    Raises `MissingDependency` without the library, `DataError` for a folder that it cannot read, for columns that are
    not there or several, and, if `labelled`, for rows without a label.
    """

    def by_label(where: Path, rows: Any) -> dict[str, list[SavedImage]]:
        import datasets

        return _by_label(rows, where, datasets.Image, datasets.ClassLabel, labelled=labelled)

    return load_saved(path, by_label)


def load_saved(path: Path, read: Callable[[Path, Any], _Read]) -> dict[str, _Read]:
    """What `read` makes of the folder and the rows of each split, ``""`` for a plain Dataset.

    Raises `MissingDependency` without the library, `DataError` for a folder that cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependency("datasets", needed_for=f"reading {path}", extra="hf") from None
    _check_regular(path)
    try:
        _check_names(path)
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            return {split: read(path / split, rows) for split, rows in loaded.items()}
        return {"": read(path, loaded)}
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot read the data set {path}: {_in_a_line(error)}", fix="save it again: save_to_disk"
        ) from error


def _in_a_line(error: Exception) -> str:
    return f"{' '.join(str(error).split()) or type(error).__name__:.300}"


def _check_regular(path: Path) -> None:
    """`DataError` for a pipe or a device among the files: the library would wait for it for ever."""
    for file in path.rglob("*"):
        if file.exists() and not file.is_dir() and not file.is_file():
            raise DataError(f"{file} is no regular file, but a pipe or a device", fix="save the data set again")


def _check_names(path: Path) -> None:
    """`DataError` for a data set that names files outside of its folder: the library would read them."""
    splits = [""]
    if (path / _SPLITS).is_file():
        splits = list(parse(read_regular(path / _SPLITS, limit=_LARGEST))["splits"])
    for split in splits:
        _check_name(path / _SPLITS, split)
        state = path / split / _STATE
        if state.is_file():
            for file in parse(read_regular(state, limit=_LARGEST))["_data_files"]:
                _check_name(state, file["filename"])


def _check_name(where: Path, name: str) -> None:
    if Path(name).name != name or name == "..":
        raise DataError(f"{where} names {name!r:.200}, which is not in its folder", fix="do not use this data set")


def _by_label(
    rows: Any, where: Path, image_type: Any, label_type: Any, *, labelled: bool
) -> dict[str, list[SavedImage]]:
    # Damage in what says where a value begins and ends would end the process.
    rows.data.validate(full=True)
    images = [name for name, kind in rows.features.items() if isinstance(kind, image_type)]
    if len(images) != 1:
        raise DataError(
            f"{where} has {len(images)} image columns; its columns: {', '.join(rows.features)}",
            fix="cast_column(NAME, datasets.Image()) one, and remove_columns the others",
        )
    labels = _labels(rows, where, label_type, labelled=labelled)
    lazily = rows.select_columns(images).cast_column(images[0], image_type(decode=False))
    found: dict[str, list[SavedImage]] = {}
    for index, label in enumerate(labels):
        found.setdefault(label, []).append(SavedImage(lazily, images[0], index, where))
    if labelled and "" in found:
        raise DataError(
            f"{len(found[''])} of {len(labels)} rows of {where} have no label", fix="leave them out: Dataset.filter"
        )
    return found


def _labels(rows: Any, where: Path, label_type: Any, *, labelled: bool) -> Sequence[str]:
    """The label of each row by name, ``""`` where there is none."""
    typed = [name for name, kind in rows.features.items() if isinstance(kind, label_type)]
    named = [name for name in _LABEL_NAMES if name in rows.features]
    columns = typed if len(typed) == 1 else [name for name in named if name in typed or not typed][:1]
    if not columns:
        if not labelled:
            return [""] * len(rows)
        raise DataError(
            f"{where} has no label column; its columns: {', '.join(rows.features)}", fix="rename_column(NAME, 'label')"
        )
    values: list[Any] = list(rows[columns[0]])
    if columns[0] in typed:
        names: list[str] = rows.features[columns[0]].names
        beyond = [value for value in values if value is not None and value >= len(names)]
        if beyond:
            raise DataError(
                f"{where}: column {columns[0]!r} has label {beyond[0]}, of {len(names)} names",
                fix="save the data set again: save_to_disk",
            )
        return ["" if value is None or value < 0 else label_name(names[value]) for value in values]
    if any(isinstance(value, (list, dict, float, bool)) for value in values):
        raise DataError(
            f"{where}: column {columns[0]!r} holds no labels, but {values[0]!r:.40}", fix="strings, or ClassLabel"
        )
    return ["" if value is None else label_name(str(value).strip()) for value in values]
