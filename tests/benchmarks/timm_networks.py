"""Networks of timm through the three engines: fp32 and int8 against timm's own in torch; README.md says what is shown.

python tests/benchmarks/timm_networks.py --networks mobileone_s0,levit_128s
python tests/benchmarks/timm_networks.py --trained 12 --image-size 64 --max-drop 0.01
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from judging import logits_of
from torch import Tensor, nn
from workloads import data_folder, preprocessed

from edgetl.cli.progress import say
from edgetl.data.dataset import Sample, load_labelled, load_photos, pick
from edgetl.models.backbones import build, head_of, preset
from edgetl.models.checkpoint import Checkpoint
from edgetl.models.sources.timm_table import COUNTED
from edgetl.pipeline import export_checkpoint, train
from edgetl.recipe import ExportSection, Recipe
from edgetl.tasks import task_of
from edgetl.verify.measure.parity import compare
from edgetl_export import TARGETS
from edgetl_runtime.bundle import open_bundle
from edgetl_runtime.errors import EdgetlError, ExportError
from edgetl_runtime.manifest import Label, Normalize

__all__ = ["fit_head", "main", "with_signal"]

PHOTOS = "flowers"
_RIDGE = 0.01
"""Of the variance of all features: what varies less is noise, to which random weights leave a lot of features."""
_GAIN = 8.0
"""Of the head that is fitted: from one-hot targets to logits that a softmax is sure of."""
_COLUMNS = ("network", "pixels", "top-1 %", "fp32 dB", "fp32 agreement %", "int8 dB", "int8 agreement %", "rung", "s")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; exit code 0, or 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(COUNTED), help="names of timm; default: those that it lists")
    parser.add_argument("--data", type=Path, help="with photos of flowers; default: EDGETL_DATA, else ../shared/data")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--image-size", type=int, help="default: that of timm's configuration")
    parser.add_argument("--max-drop", type=float, help="climb the ladder; default: static int8")
    parser.add_argument("--photos", type=int, default=100, help="to calibrate on, and to judge on; thrice to fit heads")
    parser.add_argument("--trained", type=int, metavar="EPOCHS", help="train whole networks on the digits of the demo")
    given = parser.parse_args(arguments)
    print(_line(_COLUMNS), _line(["---", *["---:"] * 6, "---", "---:"]), sep="\n", flush=True)
    try:
        for name in given.networks.split(","):
            print(_row(name, given), flush=True)
    except EdgetlError as error:
        say(f"timm_networks: error: {error}")
        return 2
    return 0


def with_signal(network: nn.Module, images: Tensor) -> None:
    """Give random weights the statistics of `images` (N, C, H, W), in place, so that what they compute depends on them.

    Batch norms take theirs from `images`. Without any, layers begin with gains of 1 instead of the tiny ones that a
    training starts from. Evaluated as it is built, a network gives nearly the same for every image.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain average
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            nn.init.ones_(gamma)
    network.train()
    with torch.no_grad():
        for start in range(0, len(images), 16):
            network(images[start : start + 16])
    network.eval()


def fit_head(network: nn.Module, images: Tensor, labels: npt.NDArray[np.int64]) -> None:
    """Solve the last layer for `labels` (N,) by least squares, in place: ridge regression on what it is given."""
    _, head = head_of(network)
    rows: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: rows.append(given[0].flatten(1).double()))
    with torch.no_grad():
        for image in images.split(16):
            network(image)
        hook.remove()
        given = torch.cat(rows)
        mean, std = given.mean(0), given.std(0) + 1e-6
        normal = (given - mean) / std
        targets = nn.functional.one_hot(torch.from_numpy(labels), head.weight.shape[0]).double() - 1 / len(head.weight)
        square = normal.T @ normal + _RIDGE * normal.numel() * torch.eye(normal.shape[1])
        weight = _GAIN * torch.linalg.solve(square, normal.T @ targets).T / std
        head.weight.copy_(weight.reshape(head.weight.shape))
        assert head.bias is not None
        head.bias.copy_(_GAIN * targets.mean(0) - weight @ mean)


def _row(name: str, given: argparse.Namespace) -> str:
    start = time.monotonic()
    torch.manual_seed(0)
    say(f"{name} ...")
    make = _fitted if given.trained is None else _trained
    checkpoint, photos, judged = make(f"timm:{name}", given)
    export = {
        "targets": given.targets.split(","),
        "precisions": given.precisions.split(","),
        "calibration_samples": given.photos,
        "max_drop": given.max_drop,
    }
    options: ExportSection = Recipe().updated({"export": export}).export
    with tempfile.TemporaryDirectory(prefix="edgetl-timm-") as scratch:
        folder = Path(scratch) / "bundle"
        try:
            exported = export_checkpoint(checkpoint, photos, folder, options)
        except ExportError as error:
            return _line([name, f"refused: {error.what}", *[""] * (len(_COLUMNS) - 2)])
        images = preprocessed(judged, checkpoint)
        run = exported.captured.source.reference()
        wanted = np.concatenate([run(image[None]) for image in images])
        bundle = open_bundle(folder)
        found = {}
        for variant in bundle.manifest.variants:
            with bundle.session(variant.id, threads=1) as session:
                found[variant.id] = compare(wanted, logits_of(session, images))
    rungs = {
        rung.variant: f"{rung.rung} ({rung.note})" if rung.note else rung.rung for rung in exported.rungs if rung.kept
    }
    cells: dict[str, list[str]] = {"fp32": [], "int8": []}
    agreed: dict[str, list[str]] = {"fp32": [], "int8": []}
    taken = []
    for target in options.targets:
        for precision in options.precisions:
            parity = found.get(f"{target}.{precision}")
            cells[precision].append("failed" if parity is None else f"{parity.sqnr_db:.1f}")
            agreed[precision].append("-" if parity is None else f"{100 * parity.top1_agreement:.1f}")
        taken.append(rungs.get(f"{target}.int8", "static" if given.max_drop is None else "-"))
    for variant, reason in {**exported.failed, **exported.over_budget}.items():
        say(f"{name} {variant}: {reason}")
    top1 = (wanted.argmax(1) == np.array([sample.label for sample in judged])).mean()
    return _line(
        [
            name,
            "x".join(map(str, checkpoint.preprocess.crop)),
            f"{100 * top1:.0f}",
            *(" / ".join(texts[precision]) for precision in ("fp32", "int8") for texts in (cells, agreed)),
            " / ".join(taken) if len(set(taken)) > 1 else taken[0],
            f"{time.monotonic() - start:.0f}",
        ]
    )


def _fitted(name: str, given: argparse.Namespace) -> tuple[Checkpoint, Sequence[Sample], Sequence[Sample]]:
    """A random network whose last layer knows flowers, photos to calibrate it on, and others to judge it on."""
    data = data_folder(given.data) / PHOTOS
    photos = pick(load_photos(data / "train"), 4 * given.photos)[: 3 * given.photos]
    labels = tuple(Label(folder.name, folder.name) for folder in sorted((data / "val").iterdir()))
    judged = pick(load_labelled(data / "val", labels)[0], given.photos)
    spec, normalize = preset(name, given.image_size)
    network = build(name, len(labels), image_size=given.image_size)
    checkpoint = Checkpoint.of(network, backbone=name, labels=labels, preprocess=spec, normalize=normalize)
    images = _normal(preprocessed(photos, checkpoint), normalize)
    with_signal(network, images[:96])
    fit_head(network, images, np.array([photo.label for photo in photos], np.int64))
    return (
        Checkpoint.of(network, backbone=name, labels=labels, preprocess=spec, normalize=normalize),
        photos,
        judged,
    )


def _trained(name: str, given: argparse.Namespace) -> tuple[Checkpoint, Sequence[Sample], Sequence[Sample]]:
    """A network trained as the demo is, from random weights, its photos, and those that were held out."""
    demo = task_of("classification").demo()
    changes = {
        "model": {"backbone": name, "image_size": given.image_size},
        "train": {"epochs": given.trained},
    }
    recipe = Recipe().updated(demo.recipe, where="the demo").updated(changes)
    dataset, trained = train(recipe, dataset=demo.dataset)
    return trained.checkpoint, dataset.train, (*dataset.val, *dataset.test)


def _normal(images: npt.NDArray[np.uint8], normalize: Normalize) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (normalize.mean, normalize.std))
    return (pixels - mean) / std


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
