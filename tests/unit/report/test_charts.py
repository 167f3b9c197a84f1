"""Charts: points where they belong, odd input drawn or named, well-formed XML."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from sptar.evaluation.significance import Comparison
from sptar.report.charts import forest_plot, funnel_chart, line_chart
from sptar.report.records import Curve, CurveSeries, Funnel, ReasonCount

SVG = "{http://www.w3.org/2000/svg}"
Points = list[tuple[float, float]]


def _paths(svg: str, colour: str) -> list[Points]:
    """Corners of every path that is drawn or filled in a colour of the page."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path)]
        for path, style in (
            (element.get("d", ""), element.get("style", ""))
            for element in ElementTree.fromstring(svg).iter(f"{SVG}path")
        )
        if f"var(--{colour}," in style
    ]


def _words(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]


def test_line_chart_keeps_proportions() -> None:
    points = ((1.0, 4.0), (2.0, 3.0), (5.0, 0.0))
    svg = line_chart(Curve("m", "t", "loss", (CurveSeries("train", points),)))
    a, b, c = next(path for path in _paths(svg, "series-1") if len(path) == 3)
    assert a[0] < b[0] < c[0]
    assert a[1] < b[1] < c[1], "a smaller loss stands lower"
    assert (c[0] - a[0]) / (b[0] - a[0]) == pytest.approx(4, rel=1e-3)
    assert (c[1] - a[1]) / (b[1] - a[1]) == pytest.approx(4, rel=1e-3)


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
    root = ElementTree.fromstring(svg)
    assert "nan" not in svg.replace("finite", "").lower()
    assert not re.search(r'"-?inf', svg)
    lost = sum(not math.isfinite(y) for _, y in points)
    if lost == len(points):
        assert "No values to draw." in _words(svg)
        return
    assert "kept" in _words(svg)
    assert (f"{lost} values are not finite and not drawn." in _words(svg)) == bool(lost)
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    for path in _paths(svg, "series-1"):
        for x, y in path:
            assert -3 <= x <= width
            assert -3 <= y <= height


def test_forest_plot_shows_intervals_in_order(sample_comparison: Comparison) -> None:
    svg = forest_plot(sample_comparison, "nDCG@10")
    items = [item for item in sample_comparison.differences if str(item.measure) == "nDCG@10"]
    colours = {"muted", "better", "worse"}
    bars = {
        (colour, low, high, y)
        for colour in colours
        for path in _paths(svg, colour)
        if len(path) == 2
        for (low, y), (high, other) in [path]
        if y == other and low < high
    }
    ordered = sorted(bars, key=lambda bar: bar[3])
    assert len(ordered) == len(items) == 5
    # An interval's ends are a straight line of the differences' ends.
    scale = (ordered[0][2] - ordered[0][1]) / (items[0].high - items[0].low)
    for (colour, low, high, _), item in zip(ordered, items, strict=True):
        expected = ordered[0][1] + (item.low - items[0].low) * scale
        assert low == pytest.approx(expected, abs=0.01)
        assert high - low == pytest.approx((item.high - item.low) * scale, abs=0.01)
        clear = "better" if item.difference > 0 else "worse"
        assert colour == (clear if sample_comparison.significant(item) else "muted")
    assert "Nothing was compared." in _words(forest_plot(sample_comparison, "P@5"))


def test_funnel_bars_have_the_length_of_their_count() -> None:
    svg = funnel_chart(Funnel("sptar", 200, (ReasonCount("rank", 50), ReasonCount("odd", 0)), 150))

    def lengths(colour: str) -> list[float]:
        bars = [path for path in _paths(svg, colour) if len(path) == 4]
        return [max(x for x, _ in bar) - min(x for x, _ in bar) for bar in bars]

    (whole,) = lengths("muted")
    assert whole > 0
    found = [*lengths("worse"), *lengths("better")]
    assert [length / whole for length in found] == pytest.approx([0.25, 0, 0.75], abs=1e-3)
    assert "source below cut-off" in _words(svg)
    assert "150 (75%)" in _words(svg)
    ElementTree.fromstring(funnel_chart(Funnel("empty", 0, (), 0)))


def test_equal_charts_are_equal_bytes_and_dollars_are_no_formula() -> None:
    curve = Curve(
        "m", "costs $1 & $2", "loss", (CurveSeries("a $x$ <b>", ((0.0, 1.0), (1.0, 2.0))),)
    )
    svg = line_chart(curve)
    assert svg == line_chart(curve)
    assert "a $x$ <b> (last 2)" in _words(svg)
