"""Small charts as inline SVG: lines, differences with their intervals, bars of a funnel.

Each function returns one ``<svg>`` element that stands alone as a file too. Colours are CSS
variables of the page with a fallback, so a chart follows the page's light or dark scheme. All text
is escaped. Drawn on a canvas 360 units wide: the labels stay readable on a phone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from markupsafe import Markup

from sptar.evaluation.significance import Comparison, Difference
from sptar.evaluation.verdict import method_title, p_text
from sptar.report.examples import reason_text
from sptar.report.records import Curve, Funnel

__all__ = ["forest_plot", "funnel_chart", "line_chart", "nice_ticks"]

_WIDTH = 360
_PAPER = "var(--paper, #ffffff)"
_INK = "var(--ink, #1b1f24)"
_MUTED = "var(--muted, #59636e)"
_GRID = "var(--line, #d1d9e0)"
_SERIES = (
    ("var(--series-1, #0b62c4)", "none"),
    ("var(--series-2, #b35900)", "6 3"),
    ("var(--series-3, #1a7f37)", "2 3"),
    ("var(--series-4, #8250df)", "8 3 2 3"),
    ("var(--series-5, #a8326e)", "1 3"),
)
_GOOD = "var(--good, #1a7f37)"
_BAD = "var(--bad, #b42318)"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover ``low`` … ``high`` from inside, about ``count`` of them.

    >>> nice_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(-0.013, 0.062)
    [0.0, 0.02, 0.04, 0.06]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999999)
    digits = max(0, 1 - math.floor(math.log10(step)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Adding 0 turns -0.0 into 0.0.
    return [round(position * step, digits) + 0.0 for position in range(first, last + 1)]


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    """All ticks of an axis with the same number of digits."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    digits = min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
    text = f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.3g}"
    return text.replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = _INK, bold: bool = False
) -> Markup:
    weight = Markup(' font-weight="600"') if bold else Markup("")
    # The halo in the colour of the paper keeps a label readable where it crosses a line.
    return Markup(
        '<text x="{}" y="{}" text-anchor="{}" style="fill:{};stroke:{};stroke-width:4;'
        'paint-order:stroke"{}>{}</text>'
    ).format(_number(x), _number(y), anchor, fill, _PAPER, weight, text)


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "none"
) -> Markup:
    return Markup(
        '<line x1="{}" y1="{}" x2="{}" y2="{}" style="stroke:{};stroke-width:{};'
        'stroke-dasharray:{}"/>'
    ).format(_number(x1), _number(y1), _number(x2), _number(y2), colour, _number(width), dash)


def _svg(height: float, title: str, description: str, parts: Sequence[Markup]) -> Markup:
    # The label carries title and description: ids would have to be unique over the page.
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" '
        'aria-label="{}" font-family="system-ui, sans-serif" font-size="11">'
        "<title>{}</title>{}</svg>"
    ).format(_WIDTH, _number(height), f"{title}. {description}", title, Markup("").join(parts))


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(low)):
        pad = max(abs(low) * 0.1, 0.1)
        return low - pad, high + pad
    pad = (high - low) * 0.06
    return low - pad, high + pad


def line_chart(curve: Curve) -> Markup:
    """Lines over epochs with a legend; the kept epoch is marked. Points that are no finite
    numbers (a diverged training) are left out and said so in the chart."""
    finite = [
        (item.name, [point for point in item.points if all(map(math.isfinite, point))])
        for item in curve.series
    ]
    lost = sum(len(item.points) for item in curve.series) - sum(len(p) for _, p in finite)
    shown = [(name, points) for name, points in finite if points]
    left, right, top, plot = 48.0, 12.0, 12.0, 150.0
    if not shown:
        return _svg(40, curve.title, "No values.", [_text(8, 24, "No values to draw.")])
    xs = [x for _, points in shown for x, _ in points]
    ys = [y for _, points in shown for _, y in points]
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    y_low, y_high = _extent(ys)

    def x_at(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (_WIDTH - left - right)

    def y_at(y: float) -> float:
        return top + (y_high - y) / (y_high - y_low) * plot

    parts: list[Markup] = []
    y_ticks = nice_ticks(y_low, y_high)
    for tick in y_ticks:
        parts.append(_line(left, y_at(tick), _WIDTH - right, y_at(tick), _GRID))
        label = _tick_text(tick, y_ticks)
        parts.append(_text(left - 6, y_at(tick) + 4, label, anchor="end", fill=_MUTED))
    x_ticks = [tick for tick in nice_ticks(x_low, x_high, 6) if float(tick).is_integer()]
    for tick in x_ticks or sorted({x_low, x_high}):
        parts.append(_text(x_at(tick), top + plot + 15, f"{tick:g}", anchor="middle", fill=_MUTED))
    middle = left + (_WIDTH - left - right) / 2
    parts.append(_text(middle, top + plot + 31, curve.x_label, anchor="middle", fill=_MUTED))
    parts.append(_line(left, top + plot, _WIDTH - right, top + plot, _MUTED))
    if curve.best_x is not None and x_low <= curve.best_x <= x_high:
        x = x_at(curve.best_x)
        parts.append(_line(x, top, x, top + plot, _MUTED, dash="3 3"))
        near_end = x > _WIDTH - 60
        parts.append(
            _text(
                x + (-4 if near_end else 4),
                top + 9,
                "kept",
                anchor="end" if near_end else "start",
                fill=_MUTED,
            )
        )
    bottom = top + plot + 50
    for number, (name, points) in enumerate(shown):
        colour, dash = _SERIES[number % len(_SERIES)]
        path = " ".join(f"{_number(x_at(x))},{_number(y_at(y))}" for x, y in points)
        parts.append(
            Markup(
                '<polyline points="{}" style="fill:none;stroke:{};stroke-width:2;'
                'stroke-dasharray:{};stroke-linejoin:round"/>'
            ).format(path, colour, dash)
        )
        if len(points) == 1:
            parts.append(
                Markup('<circle cx="{}" cy="{}" r="3" style="fill:{}"/>').format(
                    _number(x_at(points[0][0])), _number(y_at(points[0][1])), colour
                )
            )
        parts.append(_line(left, bottom - 4, left + 26, bottom - 4, colour, 2, dash))
        parts.append(_text(left + 32, bottom, f"{name} (last {points[-1][1]:.4g})"))
        bottom += 16
    if lost:
        parts.append(_text(left, bottom, f"{lost} values are not finite and not drawn.", fill=_BAD))
        bottom += 16
    description = f"{curve.y_label} by {curve.x_label}: " + "; ".join(
        f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in shown
    )
    return _svg(bottom - 6, curve.title, description, parts)


def forest_plot(comparison: Comparison, measure: str) -> Markup:
    """Differences target - other in one measure with their 95 % intervals, and the zero line."""
    items = [item for item in comparison.differences if str(item.measure) == measure]
    target = method_title(comparison.target)
    title = f"{target} minus each other method, {measure}"
    if not items:
        return _svg(40, title, "Nothing was compared.", [_text(8, 24, "Nothing was compared.")])
    left, right, top, row = 12.0, 12.0, 8.0, 40.0
    low, high = _extent([0.0, *(v for item in items for v in (item.low, item.high))])
    bottom = top + row * len(items)

    def x_at(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - right)

    parts: list[Markup] = []
    ticks = nice_ticks(low, high, 4)
    for tick in ticks:
        parts.append(_line(x_at(tick), top, x_at(tick), bottom, _GRID))
        text = _tick_text(tick, ticks)
        parts.append(
            _text(
                x_at(tick),
                bottom + 14,
                f"+{text}" if tick > 0 else text,
                anchor="middle",
                fill=_MUTED,
            )
        )
    parts.append(_line(x_at(0), top, x_at(0), bottom, _INK, 1.5))
    for number, item in enumerate(items):
        y = top + row * number
        colour = _colour(comparison, item)
        parts.append(
            _text(left, y + 13, _short(f"against {method_title(item.other)}", 30), bold=True)
        )
        right_text = f"{_signed(item.difference)}, {p_text(item.p_holm)}"
        parts.append(_text(_WIDTH - right, y + 13, right_text, anchor="end"))
        parts.append(_line(x_at(item.low), y + 26, x_at(item.high), y + 26, colour, 3))
        for end in (item.low, item.high):
            parts.append(_line(x_at(end), y + 21, x_at(end), y + 31, colour, 2))
        parts.append(
            Markup('<circle cx="{}" cy="{}" r="4.5" style="fill:{}"/>').format(
                _number(x_at(item.difference)), _number(y + 26), colour
            )
        )
    parts.append(_text(left, bottom + 30, f"← {target} worse", fill=_MUTED))
    parts.append(
        _text(_WIDTH - right, bottom + 30, f"{target} better →", anchor="end", fill=_MUTED)
    )
    description = "; ".join(
        f"{method_title(item.other)} {item.difference:+.3f}, interval {item.low:+.3f} to "
        f"{item.high:+.3f}"
        for item in items
    )
    return _svg(bottom + 38, title, description, parts)


def _colour(comparison: Comparison, item: Difference) -> str:
    if not comparison.significant(item):
        return _MUTED
    return _GOOD if item.difference > 0 else _BAD


def funnel_chart(funnel: Funnel) -> Markup:
    """A bar for what was generated, one for each reason of dropping, one for what was kept."""
    rows = [("generated", funnel.generated, _MUTED)]
    rows += [(reason_text(item.reason), item.count, _BAD) for item in funnel.dropped]
    rows.append(("kept", funnel.kept, _GOOD))
    left, right, row = 142.0, 94.0, 22.0
    longest = max(funnel.generated, 1)
    parts: list[Markup] = []
    for number, (label, count, colour) in enumerate(rows):
        y = 4 + row * number
        share = count / longest
        width = share * (_WIDTH - left - right)
        parts.append(_text(left - 8, y + 13, _short(label, 23), anchor="end"))
        parts.append(
            Markup('<rect x="{}" y="{}" width="{}" height="15" rx="2" style="fill:{}"/>').format(
                _number(left), _number(y + 1), _number(max(width, 1.0 if count else 0.0)), colour
            )
        )
        parts.append(_text(left + width + 6, y + 13, f"{count:,} ({_percent(share)})"))
    title = f"Weak queries of {method_title(funnel.method)}"
    description = ", ".join(f"{label} {count}" for label, count, _ in rows)
    return _svg(8 + row * len(rows), title, description, parts)


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _short(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1].rstrip() + "…"
