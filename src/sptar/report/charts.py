"""Charts of a page, drawn by matplotlib: lines, differences with their intervals, a funnel.

Each function returns one ``<svg>`` element that needs nothing else. Colours are CSS variables of
the page with a fallback, so a chart follows the page's light or dark scheme. Better and worse are
blue and orange, which the usual kinds of colour blindness tell apart.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from sptar.evaluation.significance import Comparison, Difference
from sptar.evaluation.verdict import method_title, p_text
from sptar.report.examples import reason_text
from sptar.report.records import Curve, Funnel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["forest_plot", "funnel_chart", "line_chart"]

_WIDTH = 5.0
"""Inches: labels stay readable where the page scales a chart to the width of a phone."""

# Stand-ins that matplotlib can parse; the drawing gets the page's variables in their place.
_INK, _MUTED, _GRID, _BETTER, _WORSE = "#010101", "#020202", "#030303", "#040404", "#050505"
_SERIES = ("#060606", "#070707", "#080808", "#090909", "#0a0a0a")
_DASHES = ("-", "--", ":", "-.", (0, (8, 2, 2, 2)))
_VARIABLES = {
    _INK: "var(--ink, #1b1f24)",
    _MUTED: "var(--muted, #59636e)",
    _GRID: "var(--line, #d1d9e0)",
    _BETTER: "var(--better, #0b62c4)",
    _WORSE: "var(--worse, #b35900)",
    _SERIES[0]: "var(--series-1, #0b62c4)",
    _SERIES[1]: "var(--series-2, #b35900)",
    _SERIES[2]: "var(--series-3, #1a7f37)",
    _SERIES[3]: "var(--series-4, #8250df)",
    _SERIES[4]: "var(--series-5, #a8326e)",
}


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(colors=_MUTED, length=0, labelsize=9)
    axes.xaxis.label.set(color=_MUTED, fontsize=9)
    return figure, axes


def _svg(figure: Figure, title: str, description: str) -> Markup:
    """The drawing as one element. Equal input gives equal bytes; ids differ between charts."""
    import matplotlib as mpl

    salt = hashlib.sha256(f"{title}\0{description}".encode()).hexdigest()
    stream = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    drawn = stream.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    # Names of groups that matplotlib numbers through would stand twice on a page.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = drawn.replace("xlink:href", "href")
    drawn = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", drawn)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', drawn)
    assert box is not None
    inside = drawn[drawn.index(">") + 1 :]
    label = escape(f"{title}. {description}")
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" {box.group()} role="img" aria-label="{label}">'
        f"<title>{escape(title)}</title>{inside}"
    )


def _nothing(title: str, sentence: str) -> Markup:
    figure, axes = _figure(0.5)
    axes.set(xticks=[], yticks=[])
    axes.text(0, 0.5, sentence, color=_INK, transform=axes.transAxes)
    return _svg(figure, title, sentence)


def line_chart(curve: Curve) -> Markup:
    """Lines over epochs with a legend; the kept epoch is marked. Points that are no finite
    numbers (a diverged training) are left out and said so in the chart."""
    finite = [
        (item.name, [point for point in item.points if all(map(math.isfinite, point))])
        for item in curve.series
    ]
    lost = sum(len(item.points) for item in curve.series) - sum(len(p) for _, p in finite)
    shown = [(name, points) for name, points in finite if points]
    if not shown:
        return _nothing(curve.title, "No values to draw.")
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(2.6 + 0.2 * (len(shown) + bool(lost)))
    for number, (name, points) in enumerate(shown):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=_SERIES[number % len(_SERIES)],
            linestyle=_DASHES[number % len(_DASHES)],
            marker="o" if len(points) == 1 else None,
            linewidth=2,
            label=_plain(f"{name} (last {points[-1][1]:.4g})", 60),
        )
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel(curve.x_label)
    low, high = axes.get_xlim()
    if curve.best_x is not None and low <= curve.best_x <= high:
        axes.axvline(curve.best_x, color=_MUTED, linewidth=1, linestyle=":", zorder=0)
        # Above the plot, where no line can run through it.
        place = (curve.best_x, 1.0)
        axes.annotate(
            "kept",
            place,
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            color=_MUTED,
            fontsize=9,
            ha="center",
        )
    heading = f"{lost} values are not finite and not drawn." if lost else None
    figure.legend(
        loc="outside lower left", frameon=False, labelcolor=_INK, fontsize=9, title=heading
    )
    description = f"{curve.y_label} by {curve.x_label}: " + "; ".join(
        f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in shown
    )
    return _svg(figure, curve.title, description)


def forest_plot(comparison: Comparison, measure: str) -> Markup:
    """Differences target - other in one measure with their 95 % intervals, and the zero line."""
    items = [item for item in comparison.differences if str(item.measure) == measure]
    title = f"{method_title(comparison.target)} minus each other method, {measure}"
    if not items:
        return _nothing(title, "Nothing was compared.")
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = _figure(0.6 + 0.48 * len(items))
    for number, item in enumerate(items):
        colour = _colour(comparison, item)
        # The zero line stands beside each interval alone, so that it crosses no words.
        axes.plot([0, 0], [number - 0.2, number + 0.2], color=_INK, linewidth=1.2, zorder=1)
        axes.plot([item.low, item.high], [number, number], color=colour, linewidth=3, zorder=2)
        axes.plot([item.difference], [number], "o", color=colour, markersize=7, zorder=3)
        # Words stand above the interval and begin at the edges of the plot, away from the points.
        for x, words, side in (
            (0.0, f"against {method_title(item.other)}", "left"),
            (1.0, f"{item.difference:+.3f}, {p_text(item.p_holm)}".replace("-", "−"), "right"),
        ):
            axes.annotate(
                _plain(words, 40),
                (x, number),
                xycoords=axes.get_yaxis_transform(),
                xytext=(0, 7),
                textcoords="offset points",
                ha=side,
                color=_INK,
                fontsize=9,
            )
    axes.set_ylim(len(items) - 0.55, -0.75)
    axes.set_yticks([])
    axes.grid(axis="x", color=_GRID, linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: "0" if x == 0 else f"{x:+.3g}".replace("-", "−"))
    )
    axes.set_xlabel("← worse · better →")
    description = "; ".join(
        f"{method_title(item.other)} {item.difference:+.3f}, interval {item.low:+.3f} to "
        f"{item.high:+.3f}"
        for item in items
    )
    return _svg(figure, title, description)


def _colour(comparison: Comparison, item: Difference) -> str:
    if not comparison.significant(item):
        return _MUTED
    return _BETTER if item.difference > 0 else _WORSE


def funnel_chart(funnel: Funnel) -> Markup:
    """A bar for what was generated, one for each reason of dropping, one for what was kept."""
    rows = [("generated", funnel.generated, _MUTED)]
    rows += [(reason_text(item.reason), item.count, _WORSE) for item in funnel.dropped]
    rows.append(("kept", funnel.kept, _BETTER))
    longest = max(funnel.generated, 1)
    figure, axes = _figure(0.25 + 0.29 * len(rows))
    counts = [count for _, count, _ in rows]
    bars = axes.barh(range(len(rows)), counts, height=0.7, color=[colour for _, _, colour in rows])
    shares = [f"{count:,} ({_percent(count / longest)})" for count in counts]
    axes.bar_label(bars, shares, padding=4, color=_INK, fontsize=9)
    axes.set_xlim(0, longest * 1.3)
    axes.set_xticks([])
    axes.set_yticks(range(len(rows)), [_plain(label, 30) for label, _, _ in rows], color=_INK)
    axes.invert_yaxis()
    title = f"Weak queries of {method_title(funnel.method)}"
    description = ", ".join(f"{label} {count}" for label, count, _ in rows)
    return _svg(figure, title, description)


def _plain(text: str, characters: int) -> str:
    """Words as they are: wrapped instead of cut, and no formula."""
    return "\n".join(textwrap.wrap(text, characters)).replace("$", r"\$")


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"
