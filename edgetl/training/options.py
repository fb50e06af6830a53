"""How a training goes, as one dataclass: the ``[train]`` section of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgetl.data.augmentation import PRESETS
from edgetl.models.options import device_option
from edgetl.option import SEED, OneOf, Section, matching, option, within

__all__ = ["IMBALANCE", "MOST_EPOCHS", "PRECISIONS", "TrainOptions"]

IMBALANCE = ("weights", "sampler", "focal", "none")
"""Ways to make up for labels that have few images: their losses count more; they are drawn more often; images that are
right anyway count less (and rare labels more); nothing."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

MOST_EPOCHS = 100_000

_CHOSEN = "chosen for data and machine"
_MOST_IMAGES = 1_000_000
_LARGEST = 1000.0
"""Of rates and the like: far more than was ever of use, and far from where float32 ends."""


@dataclass(frozen=True)
class TrainOptions(Section):
    """How it is trained. ``None`` means: what suits strategy, data and machine (see `edgetl.training.plan`).

    ``strategy`` is ``head``, ``last:N`` (head and last N stages), ``full``, ``head-then-last:N`` and ``head-then-full``
    (the head by itself first) or ``gradual`` (the head first, then stage by stage from the last to the first).
    ``batch_size`` counts images of one process for each step; they go through the network in ``accumulate`` parts.
    ``mixup`` and ``cutmix`` are the alphas of their Beta distributions. ``teacher`` is a checkpoint folder or
    ``BACKBONE:WEIGHTS_FILE``. ``augment`` is a preset of `edgetl.data.augmentation`.
    Raises `UsageError` for values that make no sense.
    """

    strategy: str | None = option(
        None,
        "what is trained",
        usual="head, or full where a task has a head of its own",
        shown=True,
        metavar="head|last:N|full|head-then-last:N|head-then-full|gradual",
        check=matching(
            r"head|gradual|(head-then-)?(full|last:[1-9]\d{0,3})",
            "head, last:N, full, head-then-last:N, head-then-full or gradual",
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
    imbalance: str = option("weights", "for labels with few photos", check=OneOf(IMBALANCE))
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

    def with_strategy(self, usual: str) -> TrainOptions:
        """These options, with the `usual` strategy where they name none."""
        return self if self.strategy is not None else replace(self, strategy=usual)

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
        """How many stages before the head are trained in the end; ``None`` for all of them."""
        last = self._strategy.removeprefix("head-then-")
        if last.startswith("last:"):
            return int(last.removeprefix("last:"))
        return 0 if last == "head" else None

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
