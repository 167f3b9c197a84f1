"""The page: complete, self-contained, escaped, readable by machine and by people."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sptar.evaluation.family import FamilyComparison
from sptar.report.build import build_report, render
from sptar.report.records import (
    ChosenExamples,
    Curve,
    CurveSeries,
    ExamplePair,
    Funnel,
    LedgerRow,
    MethodExamples,
    OverlapRow,
    ReasonCount,
    ReportData,
    ScoreBlock,
    ScoreCell,
    ScoreRow,
    ScoreTable,
    Timing,
    Version,
    WeakExample,
)

EVIL = '<script>alert(\'x\')</script> & "quoted" </title></style></svg> {{ 1234 * 5 }} \'onload="x"'


class Page(HTMLParser):
    """Elements in order; complains about what is left open or closed wrongly."""

    VOID = ("meta", "link", "br", "line", "rect", "circle", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len({name for name, _ in attrs}), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def all_text(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_every_part_is_on_the_page(sample_report: ReportData) -> None:
    page = Page(render(sample_report))
    text = page.all_text
    for expected in (
        *sample_report.verdict,
        *sample_report.warnings,
        *sample_report.notes,
        *sample_report.evaluation,
        "Mode few-shot",
        "174 labelled pairs",
        "No augmentation",
        "soft prompt, retriever",
        "weak queries equal to a test query",
        "SPTAR: 2,000 generated, 1,200 kept.",
        "dropped: source below cut-off",
        "source at rank 1,234",
        "(no text)",
        "هل تسافر الكلاب مجانا",
        "2.0123 with the best group, 3.5000 with the worst, of 61.",
        "how long is a ticket valid",
        "5 min 12 s",
        "2.13.0+cpu",
        "a_very_long_column_name",
        "2025-01-31",
    ):
        assert " ".join(expected.split()) in text, expected
    assert len(page.tags("svg")) == 4 + 3 + 4, "forest plots, funnels, curves"


def test_the_verdict_comes_first(sample_report: ReportData) -> None:
    text = render(sample_report)
    order = [match[1] for match in re.finditer(r'<h2 id="(\w+)"', text)]
    assert order[:2] == ["verdict", "scores"]
    body = text.partition("<body>")[2]
    assert body.index(sample_report.warnings[0]) < body.index(sample_report.verdict[0])
    assert body.index(sample_report.verdict[0]) < body.index("<table>")
    assert body.index("<table>") < body.index(sample_report.notes[0])


def test_marks_and_best(sample_report: ReportData) -> None:
    rows = (
        ScoreRow("bm25", (ScoreCell(0.5, "below"),)),
        ScoreRow("inpars", (ScoreCell(0.75, "above", best=True),)),
        ScoreRow("zero_shot", (ScoreCell(None),)),
        ScoreRow("sptar", (ScoreCell(0.6),), target=True),
    )
    table = ScoreTable(("nDCG@10",), (ScoreBlock("", rows, (None,)),), queries=1, alpha=0.05)
    text = render(ReportData("run", table=table))
    shown = re.findall(r"<tr[^>]*>.*?</tr>", text, flags=re.DOTALL)[1:]
    assert "†" in shown[0]
    assert "significantly below the target" in shown[0]
    assert 'class="n best">0.7500' in shown[1]
    assert "‡" in shown[1]
    assert ">–<" in shown[2]
    assert shown[3].startswith('<tr class="target">')
    assert "1 test query; bold" in text


def test_nothing_is_loaded(sample_report: ReportData) -> None:
    text = render(sample_report)
    page = Page(text)
    assert not page.tags("script")
    assert not page.tags("img")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                # Inside a chart a shape may be drawn again by its name.
                again = tag == "use" and value.startswith("#")
                assert again or (tag, value) == ("link", "data:,"), name
            assert not name.startswith("on")
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in without_namespace
    assert "https:" not in without_namespace
    (policy,) = [m for m in page.tags("meta") if m.get("http-equiv")]
    assert str(policy["content"]).startswith("default-src 'none'")


def _evil_report() -> ReportData:
    example = WeakExample(EVIL, EVIL, EVIL, 3)
    return ReportData(
        name=EVIL,
        mode="paper",
        verdict=(EVIL, EVIL),
        warnings=(EVIL,),
        notes=(EVIL,),
        table=ScoreTable(
            (EVIL,), (ScoreBlock(EVIL, (ScoreRow(EVIL, (ScoreCell(0.5),)),), (None,)),), queries=2
        ),
        evaluation=(EVIL,),
        ledger=(LedgerRow(EVIL, 1, 1, EVIL),),
        overlap=(OverlapRow(EVIL, 1, 2),),
        funnels=(Funnel(EVIL, 3, (ReasonCount(EVIL, 1),), 2),),
        examples=(MethodExamples(EVIL, (example,), (example,)),),
        curves=(Curve(EVIL, EVIL, EVIL, (CurveSeries(EVIL, ((1, 2), (2, 1))),), EVIL, best_x=1),),
        chosen=(ChosenExamples(EVIL, (ExamplePair(EVIL, EVIL),), 1.0, 2.0, 3),),
        config=EVIL,
        versions=(Version(EVIL, EVIL),),
        timings=(Timing(EVIL, 1.0),),
        made=EVIL,
    )


def test_all_text_is_escaped(sample_report: ReportData) -> None:
    harmless = Page(render(sample_report))
    text = render(_evil_report())
    page = Page(text)
    assert "<script" not in text
    assert "</style></svg>" not in text
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements}
    shown = page.all_text.count(" ".join(EVIL.split()))
    assert shown >= 20, "the text is there, as text"
    assert "6170" not in page.all_text, "a template in the data is not run"


def test_names_in_a_comparison_are_escaped(sample_report: ReportData) -> None:
    assert sample_report.family is not None
    comparison = sample_report.family.comparisons[0]
    evil = replace(
        comparison,
        target=EVIL,
        differences=tuple(replace(item, other=EVIL) for item in comparison.differences),
    )
    text = render(replace(sample_report, family=FamilyComparison((evil,))))
    Page(text)
    assert "<script" not in text


def test_headings_tables_and_figures_are_accessible(sample_report: ReportData) -> None:
    page = Page(render(sample_report))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(page.tags("caption")) == len(page.tags("table"))
    assert len(page.tags("figcaption")) == len(page.tags("figure")) == len(page.tags("svg"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.tags("svg"))
    assert all("scope" in cell for cell in page.tags("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    scrolling = [a for _, a in page.elements if a.get("class") == "scroll"]
    assert len(scrolling) == len(page.tags("table")), "a wide table scrolls inside its box"


def test_an_empty_report_is_a_page() -> None:
    page = Page(render(ReportData("nothing")))
    assert "No methods were compared in this run." in page.all_text
    assert not page.tags("table")
    assert not page.tags("svg")


def test_equal_data_give_equal_bytes(sample_report: ReportData, tmp_path: Path) -> None:
    first = build_report(sample_report, tmp_path / "a" / "report.html")
    second = build_report(sample_report, tmp_path / "report.html")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 1_000_000
    assert first.read_text(encoding="utf-8") == render(sample_report)


def test_a_large_report_stays_small(sample_report: ReportData) -> None:
    """Six methods with 100 epochs and ten examples each."""
    curve = Curve(
        "sptar",
        "tuning",
        "loss",
        tuple(
            CurveSeries(name, tuple((x, 1 / (x + 1)) for x in range(100)))
            for name in ("train", "S_eval")
        ),
    )
    example = WeakExample("word " * 20, "word " * 60, "kept", 1)
    large = replace(
        sample_report,
        curves=(curve,) * 12,
        examples=(MethodExamples("sptar", (example,) * 10, (example,) * 10),) * 6,
    )
    assert len(render(large).encode()) < 1_000_000


def test_a_funnel_must_add_up() -> None:
    with pytest.raises(ValueError, match="does not add up"):
        Funnel("sptar", 10, (ReasonCount("rank", 3),), 6)
