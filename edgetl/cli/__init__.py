"""The command line of the workbench."""

__all__: list[str] = []
