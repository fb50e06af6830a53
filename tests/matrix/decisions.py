"""Run in a fresh environment: the label that each variant gives to each golden sample, as JSON on stdout.

    python decisions.py BUNDLE onnx.fp32 onnx.int8

It imports nothing but the runtime, as a device would.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from edgetl_runtime import load, open_bundle
from edgetl_runtime.errors import EngineError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Print ``{variant: {"labels": [...]}}``, or ``{variant: {"problem": "..."}}`` for one that does not run."""
    bundle = open_bundle(arguments[0])
    golden = bundle.golden()
    found: dict[str, dict[str, object]] = {}
    for id_ in arguments[1:]:
        try:
            with load(bundle, variant=id_, threads=1) as one:
                tensors = () if golden is None else golden.tensors
                found[id_] = {"labels": [int(one.logits(tensor).argmax()) for tensor in tensors]}
        except EngineError as error:
            found[id_] = {"problem": error.what}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
