"""Image classifiers of Hugging Face's transformers: a folder that save_pretrained wrote, or a model in memory.

Nothing of a folder is run: code that it brings is not loaded.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgetl.models.sources.foreign import Foreign, state_sha256
from edgetl.models.sources.own import number_of_outputs
from edgetl.models.sources.source_options import SourceOptions
from edgetl_runtime.errors import CheckpointError, MissingDependency, UsageError
from edgetl_runtime.manifest import Label, Normalize, Preprocess

__all__ = ["LogitsOf", "opened"]

_PROCESSOR = "preprocessor_config.json"
_STRETCHED_FROM = 384
_RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as image processors have them."""


class LogitsOf(nn.Module):
    """A network that gives an object with ``logits``, as one that gives them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float32 (N, C, H, W) to logits (N, labels). Raises `UsageError` where there are none."""
        outputs = self.model(image)
        if not hasattr(outputs, "logits"):
            raise UsageError(
                f"{type(self.model).__name__} gives no logits",
                fix="an image classifier: AutoModelForImageClassification",
            )
        logits: Tensor = outputs.logits
        return logits


def opened(spec: Any, options: SourceOptions) -> Foreign:
    """The classifier with its labels, and with the settings of the image processor that lies beside it.

    Raises `MissingDependency` without transformers, `CheckpointError` for a folder that cannot be loaded, `UsageError`
    for settings that edgetl has not, and where a model in memory comes without size, mean or deviation.
    """
    folder = Path(spec) if isinstance(spec, str | Path) else None
    # The user's own may go on being trained: it stays as it is.
    model = copy.deepcopy(spec) if folder is None else _loaded(folder)
    network = LogitsOf(model).cpu().float().eval().requires_grad_(requires_grad=False)
    settings = {} if folder is None else _settings(folder)
    preprocess, normalize = _preset(settings, options, getattr(model, "config", None))
    name = type(model).__name__ if folder is None else folder.resolve().name
    outputs = number_of_outputs(network, preprocess.channels, preprocess.crop, where=name)
    return Foreign(
        kind="hugging-face",
        backbone=f"hugging-face:{type(model).__name__}",
        module=network,
        labels=options.labels_for(outputs, name, _labels(model, outputs)),
        preprocess=preprocess,
        normalize=normalize,
        sha256=state_sha256(network),
        training={"weights": name, "loading": f"{type(model).__name__} of transformers, its logits"},
    )


def _loaded(folder: Path) -> nn.Module:
    try:
        from transformers import AutoModelForImageClassification
    except ModuleNotFoundError as error:
        raise MissingDependency(error.name or "transformers", needed_for=f"{folder}", extra="hugging-face") from error
    try:
        model, loading = AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever a folder leads it to
        raise CheckpointError(
            f"{folder} cannot be loaded by transformers: {str(error).strip().splitlines()[0][:200]}",
            fix="a folder of an image classifier, as save_pretrained writes it",
        ) from error
    if missing := sorted(loading["missing_keys"]):
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        raise CheckpointError(
            f"{folder} has no weights for {shown}: transformers fills them with random numbers",
            fix="a folder of a fine-tuned image classifier; edgetl run --backbone module.py:function fine-tunes others",
        )
    assert isinstance(model, nn.Module)
    return model


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _PROCESSOR).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {folder / _PROCESSOR}: {error}", fix="save the image processor again"
        ) from None
    return found if isinstance(found, dict) else {}


def _preset(settings: dict[str, Any], options: SourceOptions, config: Any) -> tuple[Preprocess, Normalize]:
    """What the image processor does; of a model without one, what the user says."""
    size = _sides(settings.get("crop_size") if settings.get("do_center_crop") else None) or _sides(settings.get("size"))
    shortest = settings.get("size", {}).get("shortest_edge") if isinstance(settings.get("size"), dict) else None
    if size is None and isinstance(shortest, int):
        size = (shortest, shortest)
    asked = options.image_size or (getattr(config, "image_size", None) if size is None else None)
    if asked is not None:
        size = (asked, asked) if isinstance(asked, int) else tuple(asked)
    if size is None:
        raise UsageError("the model comes without an image size", fix="--image-size N or HxW")
    normalize = options.normalize or _normalize(settings)
    if normalize is None:
        raise UsageError(
            "the model comes without its image processor: how does it take pixels?",
            fix="save the processor beside it (processor.save_pretrained), or --mean and --std",
        )
    channels = options.channels or getattr(config, "num_channels", None) or len(settings.get("image_mean", (0, 0, 0)))
    resample = settings.get("resample", 2)
    if resample not in _RESAMPLING:
        raise UsageError(
            f"the image processor resizes in a way that edgetl has not: {resample}", fix="--interpolation NAME"
        )
    interpolation = options.interpolation or _RESAMPLING[resample]
    mode = options.resize or ("crop" if isinstance(shortest, int) else "stretch")
    resize = 0 if mode != "crop" else (shortest if isinstance(shortest, int) else min(size))
    percent = settings.get("crop_pct")
    if percent and isinstance(shortest, int) and options.image_size is None and options.resize is None:
        # ConvNeXt's: the shorter side to so much more than the crop; large images are stretched.
        mode = "crop" if shortest < _STRETCHED_FROM or settings.get("do_center_crop") else "stretch"
        resize = int(shortest / float(percent)) if mode == "crop" else 0
    spec = Preprocess(resize, size, interpolation, channels, options.decode or "exact", mode)
    if spec.problem is not None:
        raise UsageError(spec.problem, fix="--resize crop, --interpolation bilinear")
    n = channels // len(normalize.mean)
    return spec, Normalize(normalize.mean * n, normalize.std * n)


def _sides(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict) and isinstance(value.get("height"), int) and isinstance(value.get("width"), int):
        return value["height"], value["width"]
    return None


def _normalize(settings: dict[str, Any]) -> Normalize | None:
    """Mean and deviation in units of 0..1, also where the processor rescales otherwise, or does not normalise."""
    if not settings.get("do_rescale", True):
        raise UsageError("the image processor does not rescale pixels to 0..1", fix="--mean and --std say what it does")
    factor = 255.0 * float(settings.get("rescale_factor", 1 / 255))
    if not settings.get("do_normalize", True):
        return Normalize((0.0,), (1.0 / factor,))
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not mean or not std:
        return None
    return Normalize(tuple(float(one) / factor for one in mean), tuple(float(one) / factor for one in std))


def _labels(model: Any, outputs: int) -> tuple[Label, ...]:
    """Those that its configuration names."""
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    texts = [str(names.get(number, number)) for number in range(outputs)]
    if texts == [f"LABEL_{number}" for number in range(outputs)]:  # what transformers calls those that nobody named
        texts = [str(number) for number in range(outputs)]
    unique = len(set(texts)) == outputs and all(text.strip() for text in texts)
    return tuple(
        Label(text if unique else str(number), text if text.strip() else str(number))
        for number, text in enumerate(texts)
    )
