"""Pages of one file: no script, nothing fetched, light and dark, for a phone and for a desk.

``page.html.j2`` has the frame and the style; every page fills its blocks ``title`` and ``main``.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

from edgetl_runtime.errors import MissingDependency
from edgetl_runtime.escaping import printable

__all__ = ["render_page"]


def render_page(template: str, **values: Any) -> str:
    """The page of `template`, a file beside this module, filled with `values`.

    Raises `MissingDependency` without jinja2.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        raise MissingDependency("jinja2", needed_for="the HTML report", extra="report") from None
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _shown(value: Any) -> Any:
    """Names of others `printable`, whatever the template does with them; our own markup as it is."""
    return printable(value, keep="\n\t") if type(value) is str else value


def _source(name: str) -> str:
    return importlib.resources.files("edgetl.reports").joinpath("templates", name).read_text(encoding="utf-8")
