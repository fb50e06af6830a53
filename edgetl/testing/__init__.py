"""The gate as tests of pytest."""

__all__: list[str] = []
