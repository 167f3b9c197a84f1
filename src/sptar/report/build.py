"""The report: one self-contained HTML page from plain records. Nothing is computed here.

The page loads nothing: styles and charts stand in it, and a policy in its head forbids requests.
Every text is escaped by the template engine. Equal data give equal bytes.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from sptar.evaluation.systems import method_title, retriever_title, row_title
from sptar.evaluation.verdict import p_text
from sptar.io import atomic_write_text
from sptar.report import charts
from sptar.report.examples import reason_text
from sptar.report.records import ReportData
from sptar.report.tables import table_note

__all__ = ["build_report", "page_template", "render"]

_MODES = {
    "few_shot": (
        "few-shot",
        "the retriever trains on S_train and weak pairs and is chosen on S_eval; no other label "
        "is touched",
    ),
    "paper": (
        "paper",
        "the retriever trains on S_train, S_eval and weak pairs and is chosen on a further dev "
        "split of labelled queries",
    ),
}


def page_template(name: str) -> Template:
    """A template of this folder with the filters that all pages use."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        score=_score,
        signed=_signed,
        p=_p_number,
        seconds=_duration,
        bytes=_bytes,
        count=lambda number: f"{number:,}",
        number=lambda number: "–" if number is None else f"{number:,}",
        loss=lambda number: f"{number:.4f}",
        title=method_title,
        row=row_title,
        retriever=retriever_title,
        reason=reason_text,
        table_note=table_note,
        line_chart=charts.line_chart,
        funnel_chart=charts.funnel_chart,
        forest_plot=lambda item, measure: charts.forest_plot(item, str(measure)),
    )
    return environment.get_template(name)


def render(data: ReportData) -> str:
    """The page as text."""
    name, meaning = _MODES[data.mode]
    return page_template("page.html").render(
        data=data,
        mode_name=name,
        mode_meaning=meaning,
        total_seconds=sum(
            item.seconds for item in data.timings if item.seconds is not None and not item.reused
        ),
    )


def build_report(data: ReportData, output: str | Path) -> Path:
    """Write the page to ``output`` (a file), atomically, and return its path."""
    path = Path(output)
    atomic_write_text(path, render(data))
    return path


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(value: float) -> str:
    """With its sign, and a true minus.

    >>> _signed(0.04149), _signed(-0.01)
    ('+0.0415', '−0.0100')
    """
    return f"{value:+.4f}".replace("-", "−")


def _p_number(value: float) -> str:
    """A p-value in a column that is named so.

    >>> _p_number(0.0121), _p_number(1e-6), _p_number(1.0)
    ('0.012', '< 0.001', '1')
    """
    return p_text(value).removeprefix("p ").removeprefix("= ")


def _duration(seconds: float | None) -> str:
    """Seconds as a reader says them.

    >>> _duration(0.42), _duration(75.2), _duration(7300.0), _duration(None)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _bytes(count: int | None) -> str:
    """A size in memory.

    >>> _bytes(734_003_200), _bytes(15 * 1024**3), _bytes(None)
    ('700 MiB', '15.0 GiB', '–')
    """
    if count is None:
        return "–"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
