from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgetl.reports.pareto import accuracy_against_latency, accuracy_against_size, dominated
from edgetl.reports.svg import page_style
from edgetl.verify.report import Report

pytest.importorskip("matplotlib")


def test_who_is_beaten() -> None:
    points = [(1.0, 80.0), (2.0, 80.0), (2.0, 90.0), (2.0, 90.0), (0.5, 10.0), (3.0, 89.0)]
    assert dominated(points) == [False, True, False, False, False, True]


def test_every_point_has_its_name_and_its_own_place(report: Report) -> None:
    with page_style():
        plot = accuracy_against_latency(report)
    assert plot is not None
    names = [variant.id for variant in report.variants if variant.accuracy]
    places = []
    for name in names:
        (found,) = re.findall(rf'<text[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>{re.escape(name)}</text>', plot.svg)
        places.append((float(found[0]), float(found[1])))
        assert f"{name}: " in plot.text
    # A letter of 8 points is about half as wide; the texts are centred.
    half_widths = [0.5 * 0.5 * 8 * len(name) for name in names]
    for i, (x, y) in enumerate(places):
        for j, (other_x, other_y) in enumerate(places[:i]):
            beside = abs(x - other_x) >= half_widths[i] + half_widths[j]
            assert beside or abs(y - other_y) >= 8, f"{names[i]} lies on {names[j]}"


def test_size_and_what_is_not_there(report: Report) -> None:
    with page_style():
        plot = accuracy_against_size(report)
        bare = replace(report, variants=tuple(replace(v, accuracy=None) for v in report.variants))
        assert accuracy_against_size(bare) is None
    assert plot is not None
    assert "onnx.fp32: 9.00, 86.9 % (beaten)" in plot.text
    assert "onnx.int8: 2.40, 86.4 %;" in plot.text
