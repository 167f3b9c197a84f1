"""Charts: points where they belong, odd input drawn or named, well-formed XML."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptar.evaluation.significance import Comparison
from sptar.report.charts import forest_plot, funnel_chart, line_chart, nice_ticks
from sptar.report.records import Curve, CurveSeries, Funnel, ReasonCount

SVG = "{http://www.w3.org/2000/svg}"


def _parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def _points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]  # type: ignore[misc]
        for line in _parse(svg).iter(f"{SVG}polyline")
    ]


def test_line_chart_keeps_proportions() -> None:
    points = ((1.0, 4.0), (2.0, 3.0), (5.0, 0.0))
    ((a, b, c),) = _points(line_chart(Curve("m", "t", "loss", (CurveSeries("train", points),))))
    assert a[0] < b[0] < c[0]
    assert a[1] < b[1] < c[1], "a smaller loss stands lower"
    assert (c[0] - a[0]) / (b[0] - a[0]) == pytest.approx(4, rel=1e-3)
    assert (c[1] - a[1]) / (b[1] - a[1]) == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((1.0, 2.0),),
        ((1.0, 2.0), (2.0, 2.0)),
        ((0.0, 0.0), (1.0, 0.0)),
        ((1.0, math.nan), (2.0, math.inf)),
        ((1.0, 2.0), (2.0, math.nan), (3.0, 1.0)),
        ((1.0, 1e9), (2.0, -1e9)),
        ((1.0, 1e-9), (2.0, 2e-9)),
    ],
)
def test_odd_curves(points: tuple[tuple[float, float], ...]) -> None:
    svg = line_chart(Curve("m", "t", "loss", (CurveSeries("train", points),), best_x=1.0))
    root = _parse(svg)
    assert "nan" not in svg.replace("finite", "").lower()
    assert not re.search(r'="-?inf', svg)
    lost = sum(not math.isfinite(y) for _, y in points)
    if lost == len(points):
        assert "No values" in svg
    elif lost:
        assert f"{lost} values are not finite" in svg
    height = float(str(root.get("viewBox")).split()[3])
    for line in _points(svg):
        for x, y in line:
            assert 0 <= x <= 360
            assert 0 <= y <= height


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_round_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert all(low - width * 1e-6 <= tick <= high + width * 1e-6 for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_forest_plot_shows_intervals_in_order(sample_comparison: Comparison) -> None:
    svg = forest_plot(sample_comparison, "nDCG@10")
    root = _parse(svg)
    dots = [float(circle.get("cx", "")) for circle in root.iter(f"{SVG}circle")]
    items = [item for item in sample_comparison.differences if str(item.measure) == "nDCG@10"]
    assert len(dots) == len(items) == 5
    by_difference = sorted(range(5), key=lambda i: items[i].difference)
    assert sorted(range(5), key=lambda i: dots[i]) == by_difference
    bars = [
        line
        for line in root.iter(f"{SVG}line")
        if "stroke-width:3;" in str(line.get("style")) and line.get("y1") == line.get("y2")
    ]
    for bar, dot, item in zip(bars, dots, items, strict=True):
        assert float(bar.get("x1", "")) <= dot <= float(bar.get("x2", ""))
        clear = "--muted" not in str(bar.get("style"))
        assert clear == sample_comparison.significant(item)
    assert "Nothing was compared" in forest_plot(sample_comparison, "P@5")


def test_funnel_bars_have_the_length_of_their_count() -> None:
    svg = funnel_chart(Funnel("sptar", 200, (ReasonCount("rank", 50), ReasonCount("odd", 0)), 150))
    widths = [float(bar.get("width", "")) for bar in _parse(svg).iter(f"{SVG}rect")]
    assert widths[0] > 0
    assert [width / widths[0] for width in widths] == pytest.approx([1, 0.25, 0, 0.75], abs=1e-3)
    assert "source below cut-off" in svg
    assert "150 (75%)" in svg
    _parse(funnel_chart(Funnel("empty", 0, (), 0)))
