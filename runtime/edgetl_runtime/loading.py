"""From a path to a predictor: which variant, in which engine, on which device."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, overload

from edgetl_runtime.bundle import Bundle, open_bundle
from edgetl_runtime.engines import engine_info
from edgetl_runtime.errors import BundleError, EngineError
from edgetl_runtime.machine import usable_cores
from edgetl_runtime.manifest import Manifest, Variant
from edgetl_runtime.predictor import Predictor
from edgetl_runtime.preflight import obstacle
from edgetl_runtime.session import Session
from edgetl_runtime.tasks import task_of
from edgetl_runtime.tasks.classification import Classifier

__all__ = ["load"]

_Kind = TypeVar("_Kind", bound=Predictor[Any])


@overload
def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    variant: str | None = None,
    engine: str = "auto",
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    strict: bool = False,
    min_top1: float | None = None,
    max_drop: float | None = None,
    verify: bool = True,
    kind: None = None,
) -> Classifier: ...
@overload
def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    variant: str | None = None,
    engine: str = "auto",
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    strict: bool = False,
    min_top1: float | None = None,
    max_drop: float | None = None,
    verify: bool = True,
    kind: type[_Kind],
) -> _Kind: ...
def load(
    path: str | os.PathLike[str] | Bundle,
    *,
    variant: str | None = None,
    engine: str = "auto",
    device: str = "cpu",
    device_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    strict: bool = False,
    min_top1: float | None = None,
    max_drop: float | None = None,
    verify: bool = True,
    kind: type[Any] | None = None,
) -> Any:
    """Load the predictor of a bundle's task from a bundle folder, a zip of one, or one model file.

    Args:
        path: The bundle or file, or a `Bundle` that is open.
        variant: Its id, such as "onnx.int8". By default the fastest one that an installed engine runs and that passed
            verification: see `choose`, which tries them on the first start.
        engine: Choose among the variants of this engine only; "auto": of all that are installed.
        device: "cpu", "gpu", "npu", "edgetpu", "auto", or an engine's own name for one (an ONNX Runtime provider like
            "xnnpack" or "tensorrt", the path of a LiteRT delegate, an OpenVINO device like "HETERO:GPU,CPU").
        device_options: What that device is set up with, as the engine spells it.
        threads: Cores of one run; by default all that this process may use.
        strict: Operators that run elsewhere than on the device are an error instead of a `FallbackWarning`.
        min_top1: Choose among variants with a recorded top-1 of at least this, 0 to 1.
        max_drop: Choose among variants whose top-1 is at most so far below the original's, 0 to 0.5.
        verify: Hold the files against their hashes.
        kind: The class that is expected, such as ``kind=Detector``. Without it type checkers take a `Classifier`.

    Returns:
        The predictor: a context manager that threads may share.

    Raises:
        BundleError: The bundle is damaged, or for another task than `kind`.
        MissingDependency: The engine is not installed.
        EngineError: Nothing that fits can run here, or the engine cannot take the model or has no such device.
        UsageError: A value makes no sense, such as an engine that is not known.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    task = task_of(bundle.manifest.task)
    if kind is not None and not issubclass(task.predictor, kind):
        raise BundleError(
            f"{bundle.manifest.name!r} is for {bundle.manifest.task}, and a {kind.__name__} is asked for",
            fix=f"kind={task.predictor.__name__}, or leave kind out",
        )
    task.check(bundle.manifest)
    choice = None
    if variant is not None:
        chosen = _named(bundle.manifest, variant, engine)
    else:
        # Imported when it is needed, like other modules here: a device that names its variant starts without it.
        from edgetl_runtime.choice import Wish, choose

        wish = Wish(engine, device, dict(device_options or {}), threads, strict, min_top1, max_drop)
        choice = choose(bundle, wish)
        chosen = bundle.manifest.variant(choice.variant)

    def opened(threads: int | None) -> Session:
        return bundle.session(
            chosen.id, threads=threads, device=device, device_options=device_options, strict=strict, verify=verify
        )

    session = opened(threads)
    # An accelerator is one: it has nothing to share among sessions.
    open_lane = opened if session.device.lower() == "cpu" else None
    try:
        return task.predictor(
            bundle.manifest, chosen, session, choice=choice, threads=threads or usable_cores(), open_lane=open_lane
        )
    except BundleError:
        session.close()
        raise


def _named(manifest: Manifest, variant_id: str, engine: str) -> Variant:
    """The variant of that name; the `EdgetlError` that says why when it cannot run here in `engine`."""
    variant = manifest.variant(variant_id)
    if engine != "auto" and engine_info(engine).name != variant.requires.engine:
        raise EngineError(
            f"variant {variant_id} runs in {variant.requires.engine}, not in {engine}", fix="leave the engine out"
        )
    missing = obstacle(variant)
    if missing is not None:
        raise missing.error
    return variant
