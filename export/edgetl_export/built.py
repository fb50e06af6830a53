"""The variants that an export has so far, and why others are missing."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from edgetl_export.artifact import Artifact
from edgetl_export.converter_log import logged_to
from edgetl_export.quantize.quantization import Quantization, Quantized
from edgetl_export.risks import Risks
from edgetl_export.staging import is_about_the_disk
from edgetl_export.targets import Target
from edgetl_runtime.errors import EdgetlError

if TYPE_CHECKING:
    from edgetl_export.int8 import Quantizer

__all__ = ["LOG", "Built", "attempt"]

LOG = "export.log"
"""The converters' own output, in the bundle."""


@dataclass
class Built:
    """The variants so far, the reasons why others are missing, and the parameters of those in integers."""

    targets: dict[str, Target]
    log: BinaryIO
    unable: Callable[[str, Artifact], str | None]
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    quantizations: dict[str, Quantization] = field(default_factory=dict)
    risks: Risks = field(default_factory=Risks)
    quantizer: Quantizer | None = None

    def attempt(self, target: str, precision: str, build: Callable[[], Artifact]) -> None:
        """Keep the variant, or the reason why there is none."""
        with logged_to(self.log):
            outcome = attempt(build)
        if isinstance(outcome, Artifact):
            self.artifacts[f"{target}.{precision}"] = outcome
        else:
            self.failed[f"{target}.{precision}"] = outcome
            self.quantizations.pop(f"{target}.{precision}", None)

    def drop(self, reasons: Mapping[str, str]) -> None:
        """Forget the variants that turned out not to run, but for the reason."""
        for variant, reason in reasons.items():
            del self.artifacts[variant]
            self.failed[variant] = reason
            self.quantizations.pop(variant, None)

    def writers(self, io: str) -> dict[str, Callable[[Quantized], Artifact | str]]:
        """For every target a function that writes its int8 variant, or says why there is none.

        What it gives is going to be run in this process: it was run in another one first.
        """

        def writer(name: str, target: Target) -> Callable[[Quantized], Artifact | str]:
            def write(quantized: Quantized) -> Artifact | str:
                self.risks.remember(name, quantized)
                with logged_to(self.log):
                    artifact = attempt(partial(target.quantize, quantized, io=io))
                    if isinstance(artifact, str):
                        return artifact
                    return self.unable(f"{name}.int8", artifact) or artifact

            return write

        return {name: writer(name, target) for name, target in self.targets.items()}

    def in_order(self, precisions: Sequence[str], facts: Mapping[str, Mapping[str, object]]) -> dict[str, Artifact]:
        """By target, then by precision, as they were asked for; `facts` of a variant are added to its own."""
        names = [f"{target}.{precision}" for target in self.targets for precision in precisions]
        artifacts = {name: self.artifacts[name] for name in names if name in self.artifacts}
        return {
            name: replace(artifact, quantization={**(artifact.quantization or {}), **facts[name]})
            if name in facts
            else artifact
            for name, artifact in artifacts.items()
        }


def attempt(build: Callable[[], Artifact]) -> Artifact | str:
    """A variant, or the reason why there is none: converters raise whatever they please."""
    try:
        return build()
    except EdgetlError as error:
        return str(error)
    except OSError as error:
        if is_about_the_disk(error):
            raise
        return _in_words(error)
    except Exception as error:  # noqa: BLE001 - one converter's bug must not take the other targets with it
        return _in_words(error)


def _in_words(error: Exception) -> str:
    """One line, for the report; the whole story goes to the log."""
    traceback.print_exception(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'} (the whole story is in {LOG})"
