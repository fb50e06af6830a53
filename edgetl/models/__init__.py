"""Networks: backbones, heads, weights, checkpoints."""

__all__: list[str] = []
