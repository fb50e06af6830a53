from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import edgetl_runtime
from edgetl.cli import main as workbench_cli
from edgetl.reports.html import render_html
from edgetl.reports.usage import usage_of
from edgetl.tasks.task import Picture
from edgetl.verify.record import without_photos
from edgetl.verify.report import LayerError, Report
from edgetl_runtime import cli as device_cli

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


def in_words(report: Report) -> str:
    return " ".join(" ".join(Page(render_html(report)).words).split())


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
    assert len(plots) == 8
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]+)\)", text) + [
        str(attributes["href"])[1:] for attributes in page.named("use") if attributes.get("href")
    ]
    assert references
    assert set(references) <= set(ids)


def test_the_contents_lead_to_every_section(full_report: Report) -> None:
    page = Page(render_html(full_report))
    sections = [str(attributes["id"]) for attributes in page.named("h2")]
    assert [attributes["href"] for attributes in page.named("a")] == [f"#{id_}" for id_ in sections]
    assert {"use", "variants", "decisions", "original", "details"} <= set(sections)


def test_the_page_says_how_the_model_is_used(report: Report) -> None:
    files = {
        "onnx.int8": {"onnx/model.int8.onnx": "0"},
        "tflite.fp16": {"tflite/model.fp16.tflite": "0"},
    }
    variants = tuple(replace(v, files_sha256=files.get(v.id, {})) for v in report.variants)
    words = in_words(replace(report, bundle="my flowers.edgetl", variants=variants))
    # tflite.int8 failed and openvino.int8 is not there: of these formats the fastest that passed is another one.
    assert 'onnx.int8 pip install "edgetl-runtime[onnx]" onnx/model.int8.onnx 2.40 98.4 3.00' in words
    assert 'tflite.fp16 pip install "edgetl-runtime[tflite]" tflite/model.fp16.tflite 4.50 100.0 7.50' in words
    assert 'openvino.fp16 pip install "edgetl-runtime[openvino]"' in words
    assert "edgetl pack 'my flowers.edgetl' --variants onnx.int8 --out device.edgetl" in words
    assert "edgetl-run predict device.edgetl photo.jpg" in words
    assert "3 labels Label <0>, Label <1>, Label <2>; in the order of the logits in labels.txt" in words
    assert "onnx/model.int8.onnx by itself" in words


def test_the_commands_of_the_page_are_those_of_the_programs(report: Report) -> None:
    usage = usage_of(replace(report, bundle="it's.edgetl"))
    for command in (usage.command, usage.check):
        program, *words = shlex.split(command)
        assert program == "edgetl-run"
        assert device_cli._parser().parse_args(words).bundle == "device.edgetl"
    program, *words = shlex.split(usage.pack)
    assert program == "edgetl"
    assert str(workbench_cli._parser().parse_args(words).bundle) == "it's.edgetl"
    compile(usage.python, "page", "eval")
    assert hasattr(edgetl_runtime, "load")


def test_without_a_variant_that_passes_there_is_nothing_to_ship(report: Report) -> None:
    broken = tuple(replace(v, error="it broke") for v in report.variants)
    assert "No variant passed: there is nothing to ship yet." in in_words(replace(report, variants=broken))


@pytest.mark.slow
def test_a_report_without_photos_has_their_names_and_no_picture(full_report: Report) -> None:
    pictures = (Picture("Farthest off", "data:image/jpeg;base64,/9j/4AAQ", "id1/f.jpg"),)
    report = replace(full_report, pictures=pictures)
    assert len(Page(render_html(report)).named("img")) == 3
    page = Page(render_html(without_photos(report)))
    assert page.named("img") == []
    words = " ".join(" ".join(page.words).split())
    assert "id1/a<b>.jpg" in words
    assert "id1/e.jpg" in words


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


def test_nested_facts_are_read_as_words(report: Report) -> None:
    training = {
        "best": {"lr": None, "val_top1": 0.25},
        "chosen": ["a: b, c", "d"],
        "options": {"area": [0.5, 1.0], "qat": False},
    }
    page = render_html(replace(report, provenance={"training": training}, machine={"memory_bytes": 25_276_514_304}))
    for name, text in (
        ("training: best", "val_top1 0.25"),
        ("training: chosen", "a: b, c; d"),
        ("training: options", "area (0.5, 1), qat False"),
        ("memory", "25.3 GB"),
    ):
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page


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
    assert "2 epochs; training from 0.5 to 0.5" in text


def test_the_same_report_gives_the_same_page(report: Report, text: str) -> None:
    assert render_html(report) == text


def test_layers_are_drawn_and_the_suspects_named(report: Report) -> None:
    layers = tuple(LayerError(f"features.{i}$", f"conv2d_{i}", "t", 30.0 - 9 * i, 9.0) for i in range(3))
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
    drawing = text[text.index("layer by layer") :].partition("</svg>")[0]
    assert drawing.count("SQNR, dB") == 3, "a panel for each format: their lines lie on each other"
    assert text.count('<td class="text">features.1$</td>') == 3


@pytest.mark.slow
def test_without_layers_there_is_no_section_and_with_an_error_it_is_said(report: Report, text: str) -> None:
    assert 'id="layers"' not in text
    failed = replace(report.variants[2], layers_error="the engine <gave> up")
    text = render_html(replace(report, variants=(*report.variants[:2], failed, *report.variants[3:])))
    assert "onnx.int8 could not be taken apart: the engine &lt;gave&gt; up" in text


TEXT_ON = [
    *((text, ground) for text in ("ink", "muted") for ground in ("page", "panel")),
    *((kind, f"{kind}-soft") for kind in ("pass", "fail", "open")),
    *(("ink", f"{kind}-soft") for kind in ("pass", "fail")),
]
"""Which colour of text stands on which ground."""


SERIES = ("onnx", "tflite", "openvino", "fourth", "fifth", "sixth")


def palettes(text: str) -> dict[str, dict[str, str]]:
    """The CSS variables that are colours, by colour scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", text, flags=re.DOTALL)
    first = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return {"light": first, "dark": first | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_contrast_is_computed_as_defined() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(text: str, scheme: str) -> None:
    colours = palettes(text)[scheme]
    assert {name: contrast(colours[name], colours[ground]) for name, ground in TEXT_ON if ground in colours}
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in TEXT_ON}
    assert not {pair: value for pair, value in low.items() if value < 4.5}
    graphics = {name: contrast(colours[name], colours["panel"]) for name in SERIES}
    assert not {name: value for name, value in graphics.items() if value < 3.0}


def test_every_colour_of_text_is_one_that_is_tested(text: str) -> None:
    style = text.partition("</style>")[0]
    used = set(re.findall(r"[ {;]color: var\(--([\w-]+)\)", style))
    assert used <= {name for name, _ in TEXT_ON}


def test_what_is_known_is_shown(full_report: Report) -> None:
    text = render_html(full_report)
    page = Page(text)
    assert page.open == []
    words = " ".join(" ".join(page.words).split())
    assert "undecided onnx.fp32: 95th percentile latency in ms: measured 4 times as long" in words
    assert "tflite.int8: colours in the order BGR with R and B swapped" in words
    assert "Since accepted.json" in words
    assert "size in bytes 2500000 2400000 better exact" in words
    assert "Differences within noise (1)" in words
    assert "disturbed the load of other processes" in words
    assert "140 + 31 + 12" in words
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = [attributes["aria-labelledby"] for attributes in page.named("div") if "aria-labelledby" in attributes]
    assert set(labelled) <= set(ids)
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.named("th"))


def test_flipped_images_are_shown_once_with_every_answer(full_report: Report) -> None:
    page = Page(render_html(replace(full_report, original=None)))
    (image,) = page.named("img")
    assert image["alt"] == "id1/a<b>.jpg: Label <1>"
    assert str(image["src"]).startswith("data:image/jpeg;base64,")
    words = " ".join(" ".join(page.words).split())
    assert "broken truth Label <1> original Label <1> → Label <0> onnx.int8, tflite.int8 margin 80 %" in words
    assert "repaired truth Label <2> original Label <0> → Label <2> onnx.int8" in words
    assert "wrong truth Label <2> original Label <0> → no decision onnx.int8" in words
    assert words.index("id1/a<b>.jpg") < words.index("id2/c.jpg"), "what most variants flip comes first"


def test_labels_that_lose_stand_in_front_and_chance_is_told_apart(full_report: Report) -> None:
    text = render_html(full_report)
    table = text[text.index('id="classes"') :].partition("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["Label &lt;1&gt;", "Label &lt;2&gt;"]
    assert '<span class="mark sure">-8.2 (p 0.002)</span>' in table
    assert '<span class="mark gained">+0.8</span>' in table


@pytest.mark.slow
def test_calibration_is_drawn_from_the_bundle(full_report: Report, tmp_path: Path) -> None:
    activations = {"image": {"scale": 1.0, "zero_point": 0}, "conv": {"scale": 0.5, "zero_point": 100}}
    kept = {
        "variants": ["onnx.int8", "tflite.int8"],
        "activations": {**activations, "view": activations["conv"]},
        "weights": {"conv.weight": [0.1, 0.2]},
        "rung": "static",
        "calibration": {"n": 250},
        "in_float": ["view"],
        "saturation": {"onnx.int8": [{"can_saturate": 0.1}, {"can_saturate": 0.0}]},
    }
    (tmp_path / "quantization.json").write_text(json.dumps({"schema": 1, "quantizations": [kept]}))
    text = render_html(full_report, bundle=tmp_path)
    (label,) = [str(svg["aria-label"]) for svg in Page(text).named("svg") if "Ranges" in str(svg["aria-label"])]
    assert label.startswith(
        "Ranges of onnx.int8, tflite.int8. static on 250 images. widest: image 0 to 255, conv -50 to 77.5."
    )
    assert "onnx.int8: 1 of 2 layers can outgrow 16 bits" in label
    (tmp_path / "quantization.json").write_text('{"quantizations": [{}]}')
    assert "quantization.json is damaged" in render_html(full_report, bundle=tmp_path)
    assert "Calibration</h2>" not in render_html(full_report, bundle=tmp_path / "none")


def test_the_original_is_shown_with_its_confusions_and_its_worst_images(full_report: Report) -> None:
    text = render_html(full_report)
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    assert "Label <0> 122 98.4 99.2 Label <1> (2)" in words
    assert "wrong truth Label <1>, 1.0 % answer Label <0>, 98.0 % loss 4.61; id1/e.jpg" in words
    (matrix,) = re.findall(r'<table class="matrix">.*?</table>', text, flags=re.DOTALL)
    cells = re.findall(r'<td class="(\w+)"(?: style="--strength: ([\d.]+)%")?>(\d*)</td>', matrix)
    assert cells == [
        ("right", "49.3", "120"), ("wrong", "8.7", "2"), ("wrong", "", ""),
        ("wrong", "8.3", "1"), ("right", "49.7", "121"), ("wrong", "", ""),
        ("wrong", "", ""), ("wrong", "", ""), ("right", "50.0", "122"),
    ]  # fmt: skip
