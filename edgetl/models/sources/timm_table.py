"""What was counted of networks of timm, so that they can be listed without it."""

from __future__ import annotations

__all__ = ["COUNTED", "TRIED_OF_TIMM"]

COUNTED: dict[str, tuple[int, float, int]] = {
    "mobilenetv4_conv_small": (3_774_024, 0.186, 224),
    "mobilenetv3_small_050": (1_593_224, 0.024, 224),
    "tf_efficientnet_lite0": (4_652_008, 0.385, 224),
    "mobileone_s0": (5_293_272, 1.052, 224),
    "repvit_m0_9": (5_102_792, 0.817, 224),
    "fastvit_t8": (4_026_232, 0.690, 256),
    "edgenext_xx_small": (1_327_216, 0.258, 256),
    "mobilevit_xxs": (1_272_024, 0.407, 256),
    "ghostnet_100": (5_182_508, 0.141, 224),
    "levit_128s": (7_390_522, 0.304, 224),
    "convnext_atto": (3_695_520, 0.547, 224),
    "vit_tiny_patch16_224": (5_717_416, 1.254, 224),
}
"""Networks, without ``timm:``, whose graphs were held against timm's -> parameters, GMACs and pixels.

Counted for 1000 labels as they are trained, before branches are made one. Any other name may be asked for too.
"""

TRIED_OF_TIMM: tuple[str, ...] = tuple(name for name in COUNTED if name != "mobilevit_xxs")
"""Those that were exported to every target as fp32 and decided like the original: `tests/benchmarks/README.md`."""
