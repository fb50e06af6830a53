from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from edgetl.verify.fidelity import LayerFidelity
from edgetl.verify.html import render_html
from edgetl.verify.report import Report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

VOID = {"meta", "link", "br", "img", "input", "hr"}
SVG_LEAVES = {"path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """Elements with their attributes, and whether every one was closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture
def text(report: Report) -> str:
    return render_html(report)


def test_the_page_is_well_formed_and_says_the_verdict(text: str) -> None:
    page = Page(text)
    assert page.open == []
    words = " ".join(" ".join(page.words).split())
    assert "FAILED: 2 of 9 variants: openvino.int8, tflite.int8" in words
    assert "openvino.int8: not exported: unsupported operator" in words


def test_nothing_is_fetched_and_nothing_runs(text: str) -> None:
    assert not re.search(r"https?:|//\w|@import|<script|<iframe|<object|<embed", text)
    for tag, attributes in Page(text).elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_it_can_be_read_without_seeing_it(text: str) -> None:
    page = Page(text)
    assert page.named("html") == [{"lang": "en"}]
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.named("th"))
    plots = page.named("svg")
    assert len(plots) == 6
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]+)\)", text) + [
        str(attributes["href"])[1:] for attributes in page.named("use") if attributes.get("href")
    ]
    assert references
    assert set(references) <= set(ids)


def test_plots_follow_the_colour_scheme(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"(fill|stroke): #", drawing), re.search(r"(fill|stroke): #.{6}", drawing)
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(re.findall(r"--([\w-]+):", text))


def test_names_from_outside_are_escaped(report: Report) -> None:
    hostile = replace(
        report,
        bundle="<script>alert(1)</script>",
        labels={"id0": "<b>$x^2$</b>", "id1": "a & b", "id2": '"'},
        provenance={"note": "<img src=x onerror=alert(1)>"},
    )
    text = render_html(hostile)
    assert "<script" not in text
    assert "<img" not in text
    assert "$x^2$" in text  # a label, not a formula
    assert Page(text).open == []


def test_what_was_not_measured_leaves_no_empty_plot(report: Report) -> None:
    bare = replace(
        report,
        variants=tuple(replace(v, latency=None, parity=None, accuracy=None) for v in report.variants),
        history=(),
    )
    assert len(Page(render_html(bare)).named("svg")) == 2  # size, and accuracy by label of the original


def test_a_history_with_gaps(report: Report) -> None:
    gaps = ({"epoch": 1, "train_loss": None}, {"epoch": 2, "train_loss": 0.5, "seconds": 3.0})
    text = render_html(replace(report, history=gaps))
    assert "train_loss ends at 0.5" in text


def test_the_same_report_gives_the_same_page(report: Report, text: str) -> None:
    assert render_html(report) == text


def test_layers_are_drawn_and_the_suspects_named(report: Report) -> None:
    layers = tuple(LayerFidelity(f"features.{i}$", f"conv2d_{i}", "t", 30.0 - 9 * i, 9.0) for i in range(3))
    some = layers[:1] + layers[2:]
    measured = replace(
        report,
        variants=tuple(
            replace(v, layers=some if v.target == "onnx" else layers, suspects=layers[1:2])
            if v.precision == "int8"
            else v
            for v in report.variants
        ),
    )
    text = render_html(measured)
    page = Page(text)
    assert page.open == []
    (plot,) = [svg for svg in page.named("svg") if "layer by layer" in str(svg["aria-label"])]
    assert "3 layers. onnx.int8: lowest 12.0 dB at features.2$" in str(plot["aria-label"])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = re.findall(
        r"features\.\d\$", text[text.index("layer by layer") :].partition("</svg>")[0].partition("<g")[2]
    )
    assert names == ["features.0$", "features.1$", "features.2$"], "in running order, whoever lacks one"
    assert text.count('<td class="text">features.1$</td>') == 3


def test_without_layers_there_is_no_section_and_with_an_error_it_is_said(report: Report, text: str) -> None:
    assert 'id="layers"' not in text
    failed = replace(report.variants[2], layers_error="the engine <gave> up")
    text = render_html(replace(report, variants=(*report.variants[:2], failed, *report.variants[3:])))
    assert "onnx.int8 could not be taken apart: the engine &lt;gave&gt; up" in text
