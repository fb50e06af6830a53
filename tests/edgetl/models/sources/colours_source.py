"""A source that edgetl does not have: mean colours in a JSON file, as CONTRIBUTING.md says how one is added."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgetl.models.sources.foreign import About, Foreign, state_sha256
from edgetl.models.sources.source_options import SourceOptions
from edgetl_runtime.manifest import Label, Normalize, Preprocess

ENDING = ".colours"
_FILE = "model.colours"


class Nearest(nn.Module):
    """Normalised (N, 3, H, W) to logits (N, labels): the nearer a colour to the mean, the larger."""

    def __init__(self, colours: Tensor) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, len(colours), 1)
        with torch.no_grad():
            self.layer.weight.copy_(20 * colours[:, :, None, None])
            assert self.layer.bias is not None
            self.layer.bias.copy_(-10 * colours.square().sum(1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image).mean((2, 3))  # type: ignore[no-any-return]


def opened(spec: str | Path, options: SourceOptions) -> Foreign:
    """The network of a file."""
    content = Path(spec).read_bytes()
    colours: Mapping[str, list[float]] = json.loads(content)
    values = np.array(list(colours.values()), np.float32)

    def original(images: npt.NDArray[np.uint8]) -> Mapping[str, npt.NDArray[np.float32]]:
        """As its own program has it, in numpy."""
        mean = images.mean((1, 2), dtype=np.float64) / 255
        return {"logits": (20 * mean @ values.T - 10 * (values**2).sum(1)).astype(np.float32)}

    network = Nearest(torch.from_numpy(values))
    usual = tuple(Label(name, name) for name in colours)
    return Foreign(
        kind="colours",
        backbone=Path(spec).name,
        module=network,
        labels=options.labels_for(len(values), str(spec), usual),
        preprocess=options.fitted(Preprocess(resize=16, crop=(16, 16))),
        normalize=Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        sha256=state_sha256(network),
        training={"loading": f"{Path(spec).name}: {len(values)} colours"},
        original=original,
        files={_FILE: content},
    )


def reopened(folder: Path, about: About) -> Any:
    """The same, from a bundle."""
    about.content(folder, _FILE)
    return opened(folder / _FILE, SourceOptions()).labelled(about.labels)
