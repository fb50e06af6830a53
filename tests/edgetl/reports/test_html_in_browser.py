"""The report in headless Chromium, where there is one: nothing in the console, nothing wider than the screen."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgetl.reports.html import render_html
from edgetl.verify.report import Report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.skipif(BROWSER is None, reason="no Chromium here"), pytest.mark.slow]

MEASURE = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument.documentElement;
  const text = frame.contentWindow.getComputedStyle(frame.contentDocument.body);
  const shown = [...frame.contentDocument.querySelectorAll(".hint")].filter(hint => hint.offsetHeight > 0);
  document.title = [page.scrollWidth, frame.clientWidth, text.color, text.backgroundColor, shown.length].join("|");
};
frame.srcdoc = document.querySelector("template").dataset.page;
"""


def look(page: str, width: int, folder: Path, *, dark: bool) -> tuple[list[str], str]:
    """Widths of the content and of the screen, colours of text and page, how many hints that a table scrolls are seen;
    and what the console says.

    The page is shown in a frame, because a window of the browser is never as narrow as a phone.
    """
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<!doctype html><iframe width="{width}" height="900" style="border:0"></iframe>'
        f'<template data-page="{html.escape(page)}"></template><script>{MEASURE}</script>',
        encoding="utf-8",
    )
    command = [
        *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 40},1000", "--virtual-time-budget=5000"),
        *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", wrapper.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found is not None, done.stderr
    return found[1].split("|"), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_the_console_is_silent(full_report: Report, tmp_path: Path, width: int, dark: bool) -> None:
    (content, screen, ink, ground, hints), console = look(render_html(full_report), width, tmp_path, dark=dark)
    assert console == ""
    assert int(screen) == width
    assert int(content) <= width
    assert (int(hints) > 4) == (width == 390)
    dark_ground = (ink, ground) == ("rgb(230, 235, 241)", "rgb(17, 22, 29)")
    assert dark_ground == dark


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="no pdftotext here")
def test_what_is_folded_is_printed(full_report: Report, tmp_path: Path) -> None:
    page = render_html(full_report)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = [
        *(str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}", (tmp_path / "page.html").as_uri()),
    ]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    done = subprocess.run(["pdftotext", "-layout", str(tmp_path / "page.pdf"), "-"], capture_output=True, text=True)
    assert page.count("<details>") == 3
    for inside in ("0.864", "cosine", "measured 4 times as long", "at least 0.95"):  # a table in each of them
        assert inside in done.stdout, inside
    headings = ("What is wrong, and what to do", "Use this model", "Variants", "Details", "Machine", "Provenance")
    for sheet in done.stdout.rstrip("\f\n ").split("\f"):
        assert sheet.rstrip().splitlines()[-1].strip() not in headings, "a heading alone at the foot of a sheet"


def test_a_page_that_is_too_wide_or_complains_is_found(full_report: Report, tmp_path: Path) -> None:
    page = render_html(full_report).replace("</main>", '<p style="width: 900px">x</p><script>oh()</script></main>')
    page = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", page)
    (content, *_), console = look(page, 390, tmp_path, dark=False)
    assert int(content) >= 900
    assert "oh is not defined" in console


@pytest.mark.parametrize(
    "planted",
    [
        "<script>oh()</script>",
        '<img src="x" onerror="oh()">',
        '<img src="https://example.org/seen.png">',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<iframe src="https://example.org/"></iframe>',
    ],
)
def test_what_slips_into_the_page_is_refused_by_its_policy(full_report: Report, tmp_path: Path, planted: str) -> None:
    page = render_html(full_report).replace("</main>", f"{planted}</main>")
    _, console = look(page, 1280, tmp_path, dark=False)
    assert "Content Security Policy directive" in console
    assert "oh is not defined" not in console
