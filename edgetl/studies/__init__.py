"""Several runs side by side: the learning curve, the comparison of backbones."""

__all__: list[str] = []
