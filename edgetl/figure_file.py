"""A matplotlib figure as a picture file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from edgetl_runtime.errors import OutputError
from edgetl_runtime.writing import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_figure"]


def write_figure(figure: Figure, path: Path) -> None:
    """Write `figure`; the suffix (.png, .svg) says which kind. Raises `OutputError`, for an unknown suffix too."""
    kind = path.suffix[1:].lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise OutputError(f"cannot write {path}: {path.suffix} is no kind of picture", fix=f"one of {', '.join(known)}")
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    write_file(path, content.getvalue())
