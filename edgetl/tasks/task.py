"""What a task is to the workbench: how its photos are read, what is learned, and how good an answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edgetl.data.dataset import Dataset, Sample
from edgetl.data.options import DataOptions
from edgetl.tasks.quantity import Quantity
from edgetl_export.progress import Tell, Track, silent, untold
from edgetl_runtime.manifest import Label, Manifest, Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetl.models.heads import HeadSpec

__all__ = [
    "Demo",
    "Details",
    "InGraph",
    "Judging",
    "LossOptions",
    "Metric",
    "Objective",
    "Outputs",
    "Picture",
    "Quality",
    "Situation",
    "Size",
    "Table",
    "Targets",
    "Task",
    "TaskFault",
]

Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""What a network gives for n images by name, (n, ...) each."""

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""

Thumbnail: TypeAlias = Callable[[Sample], str | None]
"""A data URI of a photo, None where the report holds enough of them."""


@dataclass(frozen=True)
class Quality:
    """How good a model is on ``n`` labelled photos: ``value`` is the task's own number, called ``name``, 1 at best.

    ``ci95`` is its 95 % interval. ``per_label`` goes by label id; ``parts`` are other numbers of the task by name,
    which its quantities may limit. ``per_image`` packs what each image has of it (`edgetl.stats.pack_shares`): what a
    model on the same images is paired with. Beside the original, on the same images: ``delta`` is the value minus the
    original's and ``delta_ci95`` its interval; None for the original itself.
    """

    name: str
    n: int
    value: float
    ci95: tuple[float, float] | None = None
    per_label: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    per_image: str | None = None
    delta: float | None = None
    delta_ci95: tuple[float, float] | None = None


class Metric(Protocol):
    """Adds up the quality of one model, some images at a time; it keeps what it needs of the outputs, and no more."""

    def update(self, samples: Sequence[Sample], outputs: Outputs) -> None:
        """Take in what the model gives for the next images.

        Args:
            samples: The images, with what is true of them.
            outputs: (n, ...) by name; values may be NaN or infinite.
        """
        ...

    def compute(self, original: Any = None) -> Quality:
        """The quality over all images so far, at least one.

        Args:
            original: The metric of the original for the same images, which the quality is then compared with.

        Returns:
            The quality, with its change where `original` is given.
        """
        ...

    @property
    def logits(self) -> npt.NDArray[np.float32] | None:
        """(n, classes) where the outputs are one row of logits for each image, so that causes of other answers can be
        looked for in them; None where they are not."""
        ...


@dataclass(frozen=True)
class TaskFault:
    """What is wrong with the labels or the photos: a check that fails (``value`` ``relation`` ``limit``) and why."""

    what: str
    relation: str
    limit: float
    value: float
    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True)
class Table:
    """A table of the report: a heading for every column, rows of texts."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A picture of the report: ``image`` is a data URI, ``text`` says what is to be seen in it."""

    title: str
    image: str
    text: str


@dataclass(frozen=True)
class Details:
    """What a task adds to the report: fields of `edgetl.verify.report.Report`, those of each variant by its id,
    faults, which fail every variant, and sentences on what the photos do not show."""

    report: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: tuple[TaskFault, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demo:
    """What ``edgetl demo`` runs: photos that are made in code or come with a library, and a recipe for them.

    ``recipe`` has what is not usual, by section and key, as `edgetl.recipe.Recipe.updated` takes it.
    """

    dataset: Dataset
    recipe: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class InGraph:
    """A decoding that a file can have inside, behind the raw outputs (`edgetl_export.source.Decoding`).

    ``names`` are those of what it gives; ``module`` makes it of the decoder of a manifest and the size of the tensor.
    """

    names: tuple[str, ...]
    module: Callable[[Mapping[str, Any] | None, Size], nn.Module]


class LossOptions(Protocol):
    """Those of the options of a training that a loss depends on."""

    @property
    def imbalance(self) -> str | None: ...
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...
    @property
    def teacher(self) -> str | None: ...
    @property
    def teacher_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Targets:
    """What a batch should give: ``values`` (B, ...) count ``share``, the same in reverse order the rest.

    ``teacher`` is what a teacher gives for the same images.
    """

    values: Tensor
    share: float = 1.0
    teacher: Tensor | None = None


@dataclass(frozen=True)
class Situation:
    """What the options of a training are chosen by, where they were left open.

    ``world`` counts processes; ``separate_head`` says whether the outputs follow from features that can be computed
    once for every image; ``pixels`` are those of an image, height times width.
    """

    images: int
    labels: int
    pretrained: bool
    on_gpu: bool
    world: int = 1
    separate_head: bool = True
    pixels: int = 0


@dataclass(frozen=True)
class Judging:
    """How photos to judge a model on are read.

    ``spec`` is how photos become the tensor. With ``training`` they are those to train on instead of those held out,
    with ``skip_bad`` those that cannot be read are left out. ``tell`` takes a line on what was left out.
    """

    spec: Preprocess
    training: bool = False
    skip_bad: bool = False
    track: Track = silent
    tell: Tell = untold


class Objective(Protocol):
    """What a training makes small, and what it chooses the best epoch by."""

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: What the network gives, float32 (B, ...) by name.
            targets: What it should give.

        Returns:
            (B,) float32: one for every image.
        """
        ...

    def judge(self, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """What the validation keeps of a batch: float64 (k, d), as many rows as it takes.

        Args:
            outputs: What the network gives, float32 (B, ...) by name.
            targets: (B, ...), as `Task.targets` makes them.
        """
        ...

    def judged(self, rows: Tensor) -> tuple[float, float]:
        """What an epoch is judged by.

        Args:
            rows: Those of `judge` of all batches, one below the other.

        Returns:
            Mean loss and quality of all images.
        """
        ...


class Task(Protocol):
    """A task. Its device side, found by the same name, is in `edgetl_runtime.tasks`.

    What needs torch is imported when it is asked for: a bundle is verified where there is no torch, too.
    """

    name: str
    outputs: tuple[str, ...]
    """Names of what a network gives, in the order in which every variant gives it."""
    agreement: str
    """What the gate calls the share of decisions that are the original's."""
    agreement_quantised: float
    """The least agreement of a rounded file where a gate says nothing else."""
    quality: str
    """What the quality is called in a column of the report."""
    quality_quantity: str
    """What the gate calls the quality."""
    quantities: Mapping[str, Quantity]
    """What a gate can limit in this task alone."""
    heads: tuple[str, ...]
    """Heads that give the outputs, the default one first (`edgetl.models.heads`); none: the backbone's own classifier
    does."""
    strategy: str
    """What is trained where the options leave it open."""
    mode: str
    """How a photo is brought to the size of the tensor where the options leave it open (`Preprocess.mode`)."""
    image_size: int | None
    """The side of the tensor in pixels where the options leave it open; None: the backbone's own."""
    decodings: Mapping[str, InGraph]
    """By the option of an export that asks for it (`edgetl.recipe.ExportSection.in_graph`)."""
    drawn: bool
    """Whether a result has places in the photo, so that ``edgetl-run predict --draw`` can show it."""
    predict_example: str
    """What a first call of the predictor's ``predict`` gives besides the photo, as code; empty: nothing."""
    lists_by_label: bool
    """Whether photos are listed by one label each (`edgetl.data.listing`), before one is opened."""

    def read(self, path: Path, options: DataOptions, *, spec: Preprocess, track: Track) -> Dataset:
        """Photos with targets to train on, in splits.

        Args:
            path: What ``--data`` names.
            options: Those of the section ``data``.
            spec: How photos become the tensor.
            track: Shows how far it is.

        Returns:
            The data set.

        Raises:
            DataError: What is there cannot be trained on.
        """
        ...

    def read_labelled(self, path: Path, labels: Sequence[Label], judging: Judging) -> tuple[tuple[Sample, ...], str]:
        """Photos to judge a model on.

        Args:
            path: What ``--data`` names.
            labels: Those that the model knows.
            judging: How they are read.

        Returns:
            The photos, and the split they are from.

        Raises:
            DataError: Photos or targets that the model cannot be judged on.
        """
        ...

    def head(self, data: Dataset, name: str, spec: Preprocess) -> HeadSpec | None:
        """The head called `name` as the photos need it; None where the backbone's own classifier is meant.

        Args:
            data: What is trained on: its labels, and what its targets say (the sizes of boxes).
            name: One of `heads`.
            spec: How photos become the tensor.
        """
        ...

    def defaults(self, situation: Situation) -> Mapping[str, tuple[object, str]]:
        """Options of a training that suit this task better than a classifier's: name to value and reason."""
        ...

    def targets(self, samples: Sequence[Sample], frame: Preprocess) -> Tensor:
        """What the network should give for each of `samples`, (n, ...), one shape for all.

        It is asked for some of them at a time, by threads that read ahead.

        Args:
            samples: Some of the data set's.
            frame: How their pixels are made; `edgetl_runtime.placing.place` tells where a photo lies in them.
        """
        ...

    def follow(self, targets: Tensor, moves: Callable[[], Tensor], size: Size, crop: Size) -> Tensor:
        """`targets` where the pixels went: boxes and masks move with them, a label stays.

        Args:
            targets: Of a batch, (B, ...), on the device that trains.
            moves: Gives `edgetl.data.augment.moves` of the batch, (B, 2, 3).
            size: (height, width) of the pixels that the targets lie in.
            crop: (height, width) of what the network sees.
        """
        ...

    def check_options(self, options: LossOptions) -> None:
        """Raises `UsageError` for options that say nothing here; before photos are read, so that a dry run says it."""
        ...

    def objective(
        self, data: Dataset, head: HeadSpec | None, options: LossOptions, device: Any, *, smoothing: float
    ) -> Objective:
        """What a training makes small.

        Args:
            data: What is trained on.
            head: That of `head`.
            options: Of the training, those that a loss depends on.
            device: The torch device that trains.
            smoothing: Share of the label smoothing, 0 to 1.

        Raises:
            UsageError: Options that say nothing in this task.
        """
        ...

    def truth(self, outputs: Outputs, manifest: Manifest) -> tuple[int, npt.NDArray[Any] | None]:
        """The label and the target of an image whose `outputs`, without the batch, are right.

        The image is taken to be as large as the tensor.
        """
        ...

    def demo(self, seed: int = 0) -> Demo:
        """A data set on which the task is learned in a few minutes, without a download."""
        ...

    def metric(self, manifest: Manifest, n: int) -> Metric:
        """An empty metric for the outputs of one model for `n` images."""
        ...

    def details(
        self,
        original: Any,
        variants: Mapping[str, Any],
        samples: Sequence[Sample],
        manifest: Manifest,
        thumbnails: Callable[[int], Thumbnail],
    ) -> Details:
        """What the report says besides.

        Args:
            original: The full metric of the original.
            variants: Those of the variants that could be run, by id.
            samples: The images, in the order in which the metrics took them in.
            manifest: The bundle's.
            thumbnails: A budget of bytes to a function that makes thumbnails within it.
        """
        ...
