"""Photos to a verified bundle: fine-tune a vision backbone, export it, and prove that the exported files agree.

::

    from edgetl.api import export, finetune, verify

    checkpoint = finetune("photos/", backbone="mobilenet_v2")
    bundle = export(checkpoint, calibration="photos/", out="flowers.edgetl")
    report = verify(bundle, "photos/")

`edgetl_runtime` runs the bundle without torch.
"""

from edgetl_runtime import __version__

__all__ = ["__version__"]
