"""How a training goes, as one dataclass: the ``[train]`` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.data.augmentation import PRESETS
from edgetl.models.options import device_option
from edgetl.option import SEED, OneOf, Section, matching, option, within

__all__ = ["IMBALANCE", "MOST_EPOCHS", "PRECISIONS", "TrainOptions"]

IMBALANCE = ("weights", "sampler", "focal", "dice", "none")
"""Ways to make up for labels that have few images or pixels: their losses count more; they are drawn more often; what
is right anyway counts less (and rare labels more); the overlap of every label counts besides; nothing."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

MOST_EPOCHS = 100_000

_CHOSEN = "chosen for data and machine"
_MOST_IMAGES = 1_000_000
_LARGEST = 1000.0
"""Of rates and the like: far more than was ever of use, and far from where float32 ends."""


@dataclass(frozen=True)
class TrainOptions(Section):
    """How it is trained. ``None`` means: what suits strategy, data and machine (see `edgetl.training.plan`).

    ``strategy`` is ``head``, ``last:N`` (head and last N stages), ``stride:N`` (head and the stages whose maps have a
    stride of N or more), ``full``, each of the last three behind ``head-then-`` (the head by itself first), or
    ``gradual`` (the head first, then stage by stage from the last to the first).
    ``batch_size`` counts images of one process for each step; they go through the network in ``accumulate`` parts.
    ``mixup`` and ``cutmix`` are the alphas of their Beta distributions. ``teacher`` is a checkpoint folder or
    ``BACKBONE:WEIGHTS_FILE``. ``augment`` is a preset of `edgetl.data.augmentation`.
    Raises `UsageError` for values that make no sense.
    """

    strategy: str | None = option(
        None,
        "what is trained",
        usual="head; for boxes stride:16, for masks stride:8",
        shown=True,
        metavar="head|last:N|stride:N|full|head-then-...|gradual",
        check=matching(
            r"head|gradual|(head-then-)?(full|last:[1-9]\d{0,3}|stride:[1-9]\d{0,3})",
            "head, last:N, stride:N, full, gradual, or head-then- before one of the middle three",
        ),
    )
    epochs: int | None = option(None, "passes over the photos", usual=_CHOSEN, check=within(1, MOST_EPOCHS), shown=True)
    batch_size: int | None = option(None, "images of a step and process", usual=_CHOSEN, check=within(2, _MOST_IMAGES))
    accumulate: int = option(1, "parts that a step goes through the network in", check=within(1, _MOST_IMAGES))
    lr: float | None = option(
        None,
        "learning rate of the head; `edgetl lr-range` helps",
        usual=_CHOSEN,
        metavar="RATE",
        check=within(0, _LARGEST, but=(0,)),
    )
    backbone_lr_ratio: float | None = option(
        None, "times the head's rate, for other layers", usual=_CHOSEN, check=within(0, 1, but=(0,)), flag=None
    )
    layer_decay: float = option(
        1.0, "times the rate, for each stage from the head", check=within(0, 1, but=(0,), more=" (off)")
    )
    weight_decay: float | None = option(None, "of AdamW", usual=_CHOSEN, check=within(0, _LARGEST), flag=None)
    label_smoothing: float | None = option(
        None, "share of a label that goes to the others", usual=_CHOSEN, check=within(0, 1, but=(1,)), flag=None
    )
    imbalance: str | None = option(
        None, "for labels with few photos", usual="weights; of boxes none", check=OneOf(IMBALANCE)
    )
    mixup: float = option(0.0, "mix images", usual="0, off", metavar="ALPHA", check=within(0, _LARGEST))
    cutmix: float = option(0.0, "paste images into others", usual="0, off", metavar="ALPHA", check=within(0, _LARGEST))
    ema: float | None = option(
        None, "average the weights over steps", usual="0, off", metavar="DECAY", check=within(0, 1, but=(1,))
    )
    dropout: float | None = option(
        None, "before the head", usual=_CHOSEN, metavar="SHARE", check=within(0, 1, but=(1,))
    )
    hidden: int | None = option(
        None, "an extra hidden layer in the head, N wide", usual="none", check=within(1, _MOST_IMAGES)
    )
    batch_norm: str | None = option(
        None,
        "train, or frozen: its statistics stay as they came, everywhere",
        usual=_CHOSEN,
        check=OneOf(("train", "frozen"), fix="train or frozen"),
        flag=None,
    )
    teacher: str | None = option(
        None, "a checkpoint, or a backbone's weights, to learn from", usual="none", metavar="DIR|NAME:FILE"
    )
    teacher_weight: float = option(0.5, "how much the teacher's answers count", check=within(0, 1), flag=None)
    temperature: float = option(
        2.0, "that softens the teacher's answers", check=within(0, _LARGEST, but=(0,)), flag=None
    )
    clip_gradient: float | None = option(
        None, "largest norm of a step's gradients", usual="off", check=within(0, _LARGEST, but=(0,)), flag=None
    )
    warmup: float | None = option(
        None, "share of the steps in which the rate rises", usual=_CHOSEN, check=within(0, 1, but=(1,)), flag=None
    )
    patience: int | None = option(
        None, "end after N epochs without a better one", usual="never", check=within(1, MOST_EPOCHS)
    )
    augment: str | None = option(None, "what images are", usual="similar", check=OneOf(tuple(PRESETS)))
    qat: bool = option(False, "go on with int8 simulated (minutes, on a CPU)")
    seed: int = option(0, "of every random number", check=SEED)
    device: str = device_option()
    precision: str = option(
        "auto",
        "what the network is trained in",
        check=OneOf(PRECISIONS, more="; what is exported is another option: --precisions int8"),
        key="train_precision",
        former="precision",
        former_note="what is exported is --precisions",
    )
    compile: bool = option(False, "torch.compile the network")
    cache: bool = option(True, "keep decoded images on disk", flag=None)
    tensorboard: str | None = option(
        None, "a folder for TensorBoard, one for each training", usual="none", metavar="DIR"
    )

    def with_strategy(self, usual: str, *, random: bool) -> TrainOptions:
        """These options, with the `usual` strategy where they name none.

        A head of a task's own is trained with all other layers where these are `random`.
        """
        if self.strategy is not None:
            return self
        return replace(self, strategy="full" if random and usual != "head" else usual)

    @property
    def head_first(self) -> bool:
        """Whether the head is trained by itself before anything else is."""
        return self._strategy in ("head", "gradual") or self._strategy.startswith("head-then-")

    @property
    def trains_network(self) -> bool:
        """Whether layers besides the head are trained."""
        return self._strategy != "head"

    @property
    def trained_stages(self) -> int | None:
        """How many stages before the head are trained in the end; ``None`` for all of them, or those of a stride."""
        last = self._strategy.removeprefix("head-then-")
        if last.startswith("last:"):
            return int(last.removeprefix("last:"))
        return 0 if last == "head" else None

    @property
    def trained_stride(self) -> int | None:
        """The least stride of the stages that are trained, where the strategy says one."""
        _, said, stride = self._strategy.partition("stride:")
        return int(stride) if said else None

    @property
    def _strategy(self) -> str:
        assert self.strategy is not None, "with_strategy comes first"
        return self.strategy

    @property
    def teacher_file(self) -> tuple[str | None, Path] | None:
        """Backbone (``None`` for a checkpoint folder) and path of the teacher."""
        if self.teacher is None:
            return None
        backbone, colon, path = self.teacher.partition(":")
        return (backbone, Path(path)) if colon and path and len(backbone) > 1 else (None, Path(self.teacher))
