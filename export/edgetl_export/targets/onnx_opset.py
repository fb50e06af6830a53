"""ONNX files for old runtimes: older operators than the exporter writes, in the oldest IR version that has them."""

from __future__ import annotations

import onnx
from onnx import defs, helper, numpy_helper, version_converter

from edgetl_runtime.errors import UsageError

__all__ = ["lowered"]


_LAST_ADAPTED = 14
"""The converter goes no further back. Opset 14 only gave operators of 13 more types and attributes, which the checker
would not let pass."""


def lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy of `model` in the operators of `opset`, which must not be newer than its own.

    Raises `UsageError` with the operators that need a newer one.
    """
    (own,) = (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    assert opset <= own
    missing = {name: since for name in _operators(model) if (since := _since(name, own)) > opset}
    if missing:
        least = max(missing.values())
        named = ", ".join(f"{name} (opset {since})" for name, since in sorted(missing.items()))
        raise UsageError(f"opset {opset} is too old for this network: it needs {named}", fix=_fix(least))
    lower: onnx.ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    _leave_out_defaults(lower)
    if opset < own:
        try:
            if own > _LAST_ADAPTED:
                lower = version_converter.convert_version(lower, max(opset, _LAST_ADAPTED))
            lower.opset_import[0].version = opset
            onnx.checker.check_model(lower, full_check=True)
        except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().splitlines()[0].rpartition("failed: ")[2]
            raise UsageError(f"this network cannot be brought to opset {opset}: {reason}", fix=_fix(own)) from error
    lower.ir_version = helper.find_min_ir_version_for(lower.opset_import)
    return lower


def _leave_out_defaults(model: onnx.ModelProto) -> None:
    """Remove attributes that change nothing: the converter leaves them to operators that did not have them yet."""
    whole = {tensor.name for tensor in model.graph.initializer if numpy_helper.to_array(tensor).all()}
    for node in model.graph.node:
        for item in list(node.attribute):
            # allowzero matters to shapes with a zero in them alone.
            no_zero = item.name == "allowzero" and (item.i == 0 or node.input[1] in whole)
            if no_zero or (item.name == "noop_with_empty_axes" and item.i == 0):
                node.attribute.remove(item)


def _operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}


def _since(name: str, own: int) -> int:
    """The opset that an operator came with. Those that later opsets changed are the converter's business."""
    since: int = defs.get_schema(name, own).since_version
    while since > 1:
        try:
            since = defs.get_schema(name, since - 1).since_version
        except defs.SchemaError:
            break
    return since


def _fix(least: int) -> str:
    return f"--opset {least} or more, or leave --opset out; or --targets without onnx"
