"""Where the error of static int8 comes from: all that is rounded, the activations alone, the weights alone.

    python tests/benchmarks/noise_sources.py --workload mobilenet_v2

Simulated in torch, calibrated on the workload's photos and judged on the others, against the original. What is left
when weights are not rounded is the most that a better way to round them, such as AdaRound, could reach.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from workloads import WORKLOADS, data_folder, preprocessed, source_of

from edgetl.cli.progress import say
from edgetl_export import CalibrationSamples, capture
from edgetl_export.quantize.calibrate import calibrate
from edgetl_export.quantize.pixels import on_pixels
from edgetl_export.quantize.quantization import Quantization, Quantized, weight_scales
from edgetl_export.quantize.simulate import Simulation
from edgetl_export.quantize.static import quantize_static
from edgetl_runtime.comparison import sqnr_db
from edgetl_runtime.errors import EdgetlError

__all__ = ["activations_alone", "main", "weights_alone"]

_FINE = 2**20
"""Levels of a weight that is as good as not rounded."""
_AT_ONCE = 25


def weights_alone(quantized: Quantized) -> Quantization:
    """The same weights, no activation rounded, so that biases are not either."""
    return replace(quantized.quantization, activations={})


def activations_alone(quantized: Quantized) -> Quantization:
    """The same activations, weights in steps so fine that they do not matter."""
    weights = {
        name: tuple(weight_scales(quantized.captured.module.get_parameter(name), _FINE).tolist())
        for name in quantized.quantization.weights
    }
    return replace(quantized.quantization, weights=weights, weight_levels=_FINE)


def main(arguments: list[str]) -> int:
    """Print the table; exit code 0, or 2 when there is something for the user to fix."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", choices=list(WORKLOADS), default="mobilenet_v2")
    parser.add_argument("--data", type=Path, help="weights and photos; default: EDGETL_DATA, else ../shared/data")
    given = parser.parse_args(arguments)
    try:
        _print_table(given.workload, data_folder(given.data))
    except EdgetlError as error:
        say(f"noise_sources: error: {error}")
        return 2
    return 0


def _print_table(name: str, data: Path) -> None:
    workload = WORKLOADS[name]
    checkpoint = workload.checkpoint(data)
    photos = workload.calibration_photos(data, workload.calibration_samples)
    samples = CalibrationSamples([photo.source for photo in photos], checkpoint.preprocess)
    images = preprocessed(workload.evaluation_photos(data, checkpoint), checkpoint)
    source = source_of(checkpoint)
    captured = on_pixels(capture(source))
    quantized = quantize_static(captured, calibrate(captured, samples))
    run = source.reference()
    reference = np.concatenate([run(images[at : at + _AT_ONCE]) for at in range(0, len(images), _AT_ONCE)])
    print(f"{workload.title}; {len(photos)} photos to calibrate on, {len(images)} to judge on, simulated\n")
    print("| rounded | SQNR dB | of half of the photos at least | agreement % |\n| --- | ---: | ---: | ---: |")
    for what, quantization in (
        ("all", quantized.quantization),
        ("activations alone", activations_alone(quantized)),
        ("weights alone", weights_alone(quantized)),
    ):
        logits = Simulation(quantized.captured, quantization).outputs(images)["logits"]
        print(f"| {what} | {_told(reference, logits)} |", flush=True)


def _told(reference: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> str:
    median = np.median([sqnr_db(wanted, given) for wanted, given in zip(reference, logits, strict=True)])
    agreement = (reference.argmax(axis=1) == logits.argmax(axis=1)).mean()
    return f"{sqnr_db(reference, logits):.1f} | {median:.1f} | {agreement:.1%}".replace("%", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
