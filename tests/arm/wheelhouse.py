"""Folders of installed wheels, one for each engine, version and architecture, and one with edgetl's own wheel."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from steps import output_of, whole_folder

from edgetl_runtime.errors import UsageError, nearest

__all__ = ["VARIANTS", "Engine", "engine_folder", "install_edgetl", "installed_versions", "parse_engines"]

VARIANTS = {"onnxruntime": "onnx.int8", "ai-edge-litert": "tflite.int8", "openvino": "openvino.int8"}
"""Distribution -> the variant that is run with it."""

_PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))
"""What Debian 12's glibc 2.36 can load."""


@dataclass(frozen=True)
class Engine:
    """A distribution at one version, as pip takes it."""

    distribution: str
    version: str

    @property
    def variant(self) -> str:
        """Id of the variant that it runs here."""
        return VARIANTS[self.distribution]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def parse_engines(text: str) -> tuple[Engine, ...]:
    """``onnxruntime==1.23.2,ai-edge-litert==2.1.0``. Raises `UsageError` for what is not known or has no version."""
    engines = []
    for word in text.split(","):
        name, equals, version = (part.strip() for part in word.partition("=="))
        if name not in VARIANTS:
            raise UsageError(f"--engines: unknown distribution {name!r}", fix=nearest(name, tuple(VARIANTS)))
        if not equals or not version:
            raise UsageError(f"--engines: {name} has no version", fix=f"{name}==VERSION")
        engines.append(Engine(name, version))
    return tuple(engines)


def engine_folder(workdir: Path, engine: Engine, *, aarch64: bool) -> Path:
    """The folder of `engine` with numpy and Pillow, installed once; those of x86 are of the versions that aarch64 got.

    Raises `EngineError` when pip finds no wheels.
    """
    folder = _folder(workdir, engine, "aarch64" if aarch64 else "x86_64")
    if not folder.exists():
        common = ["numpy", "pillow"]
        if aarch64:
            chosen = [word for platform in _PLATFORMS for word in ("--platform", platform)]
            options = ["--python-version", "3.11", "--implementation", "cp", *chosen]
        else:
            versions = installed_versions(engine_folder(workdir, engine, aarch64=True))
            common, options = [f"{name}=={versions[name]}" for name in common], []
        with whole_folder(folder) as fresh:
            wanted = [*common, f"{engine.distribution}=={engine.version}"]
            _pip(["--only-binary=:all:", *options, *wanted], target=fresh, what=f"install {engine} for {folder.name}")
    return folder


def install_edgetl(into: Path, source: Path) -> Path:
    """Build the wheel of the checkout at `source` and install it alone, in a folder inside of `into`."""
    folder = into / "edgetl"
    with whole_folder(folder) as fresh:
        _pip(["--no-deps", str(source)], target=fresh, what="build and install edgetl's wheel")
    return folder


def installed_versions(folder: Path) -> dict[str, str]:
    """Distribution -> version, of what lies in a folder that pip filled."""
    return {found.metadata["Name"].lower(): found.version for found in distributions(path=[str(folder)])}


def _folder(workdir: Path, engine: Engine, architecture: str) -> Path:
    return workdir / "wheels" / f"{architecture}-{engine.distribution}-{engine.version}"


def _pip(arguments: list[str], *, target: Path, what: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--no-warn-conflicts", "--target", str(target)]
    fix = "check the network, and that the package index has these versions for Python 3.11 on aarch64 and x86_64"
    output_of([*pip, *arguments], cwd=target, what=what, fix=fix)
