"""How a training goes, as one dataclass: the ``[train]`` section of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgetl.data.augmentation import PRESETS
from edgetl.models.options import require
from edgetl_export.device import DEVICES
from edgetl_runtime.errors import UsageError, nearest

__all__ = ["IMBALANCE", "LARGEST_SEED", "MOST_EPOCHS", "PRECISIONS", "TrainOptions"]

IMBALANCE = ("weights", "sampler", "focal", "none")
"""Ways to make up for labels that have few images: their losses count more; they are drawn more often; images that are
right anyway count less (and rare labels more); nothing."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

MOST_EPOCHS = 100_000
LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""

_STRATEGY = re.compile(r"head|gradual|(head-then-)?(full|last:[1-9]\d{0,3})")
_MOST_IMAGES = 1_000_000
_LARGEST = 1000.0
"""Of rates and the like: far more than was ever of use, and far from where float32 ends."""


@dataclass(frozen=True)
class TrainOptions:
    """How it is trained. ``None`` means: what suits strategy, data and machine (see `edgetl.training.plan`).

    ``strategy`` is ``head``, ``last:N`` (head and last N stages), ``full``, ``head-then-last:N`` and ``head-then-full``
    (the head by itself first) or ``gradual`` (the head first, then stage by stage from the last to the first).

    ``batch_size`` counts images of one process for each step; they go through the network in ``accumulate`` parts.
    ``lr`` is the learning rate of the head; other layers get ``backbone_lr_ratio`` times that, and ``layer_decay``
    times less for every stage further from the head. ``imbalance`` is one of `IMBALANCE`. ``mixup`` and ``cutmix`` are
    the alphas of their Beta distributions, ``ema`` is the decay of averaged weights; 0 is off. ``hidden`` is the width
    of an extra layer in the head. ``batch_norm`` is ``train`` or ``frozen`` (statistics stay as they came, everywhere).
    ``teacher`` is a checkpoint folder or ``BACKBONE:WEIGHTS_FILE``; its answers count ``teacher_weight`` (0..1).
    ``augment`` is a preset of `edgetl.data.augmentation`. ``patience`` epochs without a better validation accuracy end
    the training. ``qat`` goes on with int8 simulated.
    ``device`` is one of `edgetl_export.device.DEVICES`, ``precision`` (``train_precision`` in a recipe) one of
    `PRECISIONS`; ``cache`` keeps decoded images.
    ``tensorboard`` is a folder for TensorBoard, one for each training.
    Raises `UsageError` for values that make no sense.
    """

    strategy: str = "head"
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    lr: float | None = None
    backbone_lr_ratio: float | None = None
    layer_decay: float = 1.0
    weight_decay: float | None = None
    label_smoothing: float | None = None
    imbalance: str = "weights"
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    dropout: float | None = None
    hidden: int | None = None
    batch_norm: str | None = None
    teacher: str | None = None
    teacher_weight: float = 0.5
    temperature: float = 2.0
    warmup: float = 0.05
    patience: int | None = None
    augment: str = "similar"
    qat: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    cache: bool = True
    tensorboard: str | None = None

    def __post_init__(self) -> None:
        text = "head, last:N, full, head-then-last:N, head-then-full or gradual"
        require(_STRATEGY.fullmatch(self.strategy), "strategy", self, text)
        for name, least, most in (
            ("epochs", 1, MOST_EPOCHS),
            ("batch_size", 2, _MOST_IMAGES),
            ("accumulate", 1, _MOST_IMAGES),
            ("patience", 1, MOST_EPOCHS),
            ("hidden", 1, _MOST_IMAGES),
        ):
            value = getattr(self, name)
            require(value is None or least <= value <= most, name, self, f"from {least} to {most}")
        require(self.lr is None or 0 < self.lr <= _LARGEST, "lr", self, f"above 0, at most {_LARGEST:g}")
        ratio = self.backbone_lr_ratio
        require(ratio is None or 0 < ratio <= 1, "backbone_lr_ratio", self, "above 0, at most 1")
        require(0 < self.layer_decay <= 1, "layer_decay", self, "above 0, at most 1 (off)")
        for name in ("weight_decay", "mixup", "cutmix"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= _LARGEST, name, self, f"from 0 to {_LARGEST:g}")
        for name in ("label_smoothing", "dropout", "ema", "warmup"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, self, "from 0, below 1")
        require(0 <= self.teacher_weight <= 1, "teacher_weight", self, "from 0 to 1")
        require(0 < self.temperature <= _LARGEST, "temperature", self, f"above 0, at most {_LARGEST:g}")
        require(self.imbalance in IMBALANCE, "imbalance", self, nearest(self.imbalance, IMBALANCE))
        require(self.batch_norm in (None, "train", "frozen"), "batch_norm", self, "train or frozen")
        require(self.augment in PRESETS, "augment", self, nearest(self.augment, list(PRESETS)))
        require(self.device in DEVICES, "device", self, "auto, cpu or cuda")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"train_precision = {self.precision!r} makes no sense",
                fix=f"{nearest(self.precision, PRECISIONS)}; what is exported is another option: --precisions int8",
            )
        require(0 <= self.seed <= LARGEST_SEED, "seed", self, f"from 0 to {LARGEST_SEED}")

    @property
    def head_first(self) -> bool:
        """Whether the head is trained by itself before anything else is."""
        return self.strategy == "head" or self.strategy == "gradual" or self.strategy.startswith("head-then-")

    @property
    def trains_network(self) -> bool:
        """Whether layers besides the head are trained."""
        return self.strategy != "head"

    @property
    def trained_stages(self) -> int | None:
        """How many stages before the head are trained in the end; ``None`` for all of them."""
        last = self.strategy.removeprefix("head-then-")
        if last.startswith("last:"):
            return int(last.removeprefix("last:"))
        return 0 if last == "head" else None

    @property
    def teacher_file(self) -> tuple[str | None, Path] | None:
        """Backbone (``None`` for a checkpoint folder) and path of the teacher."""
        if self.teacher is None:
            return None
        backbone, colon, path = self.teacher.partition(":")
        return (backbone, Path(path)) if colon and path and len(backbone) > 1 else (None, Path(self.teacher))
