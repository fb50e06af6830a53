"""What verification measures, one module for each quantity."""

__all__: list[str] = []
