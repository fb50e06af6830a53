"""The description of both distributions on an index page: their README, with links that work there.

A page in the repository links to others by relative paths, which lead nowhere on an index. With the address of the
repository in ``EDGETL_REPOSITORY`` (``https://HOST/OWNER/NAME``) links are made absolute and the project's addresses
are added; without one, what is linked stays as plain text. Contents and what only tests read are left out, and so is
what begins with the heading ``until``: a device keeps this text beside the package.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ADDRESS = "EDGETL_REPOSITORY"
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!https?:)(?P<to>[^)\s]+)\)")
_PICTURE = re.compile(r"<img src=\"(?!https?:)(?P<to>[^\"]+)\"(?P<rest>[^>]*)>")


def with_links(markdown: str, page: str, address: str) -> str:
    """The text of `page`, its path in the repository, with links below `address`; without an address, without them."""

    def place(kind: str, to: str) -> str:
        path, _, fragment = to.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        return f"{address}/{kind}/HEAD/{path}" + (f"#{fragment}" if fragment else "")

    if not address:
        return _LINK.sub(r"\g<text>", _PICTURE.sub("", markdown))
    markdown = _PICTURE.sub(lambda found: f'<img src="{place("raw", found["to"])}"{found["rest"]}>', markdown)
    markdown = markdown.replace("git clone REPOSITORY ", f"git clone {address} ")
    return _LINK.sub(lambda found: f"[{found['text']}]({place('blob', found['to'])})", markdown)


def for_an_index(markdown: str, until: str) -> str:
    """The text in front of the heading `until` (all of it where that is empty), without contents and comments."""
    text = markdown
    if until:
        text = markdown.partition(f"\n## {until}\n")[0] + "\nThere is more of this page in the repository.\n"
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^(?:- \[[^\]]*\]\(#[^)]*\)|<!--.*?-->)\n", "", text, flags=re.MULTILINE))


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """`metadata` is the table ``project``, and is changed."""
        address = os.environ.get(ADDRESS, "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = for_an_index(text, str(self.config.get("until", "")))
        readme = with_links(text, str(self.config["page"]), address)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
        metadata["urls"] = {}
        if address:
            changes = f"{address}/blob/HEAD/CHANGELOG.md"
            metadata["urls"] = {"Source": address, "Issues": f"{address}/issues", "Changelog": changes}
