"""The page of ``report`` without a browser: what stands in it, and what can never stand in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from results import HOSTILE, arguments, hostile_folder, one, write

from sepdeploy.cli import run
from sepdeploy.reports.document import charts

VOID = {"meta", "link", "img", "br"}


class Outline(HTMLParser):
    """Elements with their attributes, and the text; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with all sections; its charts are drawn by `test_report_in_a_browser.py` alone."""
    folder = tmp_path_factory.mktemp("page")
    words = [*arguments(hostile_folder(folder)), "-o", folder / "page.html", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "has_extra", lambda: True)
        patch.setattr(charts, "drawn", drawn)
        assert run([str(w) for w in words]) == 0
    return (folder / "page.html").read_text("utf-8")


def drawn(spec: dict[str, Any], label: str) -> str:
    json.dumps(spec, allow_nan=False)
    return f'<svg role="img" aria-label="{label}"></svg>'


def test_foreign_words_stay_words(page: str) -> None:
    outline = Outline(page)
    assert not outline.of("script")
    assert not [a for _, attrs in outline.found for a in attrs if a.startswith("on")]
    shown = HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    assert shown.replace("\x1b", "\N{REPLACEMENT CHARACTER}") in outline.words
    assert not re.search("[\u202e\x1b]", page)
    assert "49" not in re.findall(r"onerror=alert\(2\)&gt;(.{0,30})", page)[0]  # {{7*7}}


def test_nothing_is_fetched(page: str) -> None:
    outline = Outline(page)
    (policy,) = [m["content"] for m in outline.of("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    links = [attrs.get(a) for _, attrs in outline.found for a in ("src", "href", "xlink:href")]
    assert {str(link)[:5] for link in links if link} <= {"data:"} | {
        str(link)[:5] for link in links if str(link).startswith("#")
    }
    assert "url(" not in page
    assert len(page.encode()) < 2 << 20


def test_charts_stand_beside_tables_that_say_the_same(page: str) -> None:
    outline = Outline(page)
    drawings = outline.of("svg")
    # params, bytes, two results' latencies, a device's instructions; two spreads; attacks,
    # two radii; training
    assert len(drawings) == 5 + 2 + 2 + 1
    assert all(d.get("role") == "img" and d.get("aria-label") for d in drawings)
    assert len(outline.of("caption")) == len(outline.of("table")) >= 6
    assert all(head.get("scope") in ("col", "row") for head in outline.of("th"))
    assert all(image.get("alt") for image in outline.of("img"))
    ids = [attrs["id"] for _, attrs in outline.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(a["href"]) for a in outline.of("a")} <= {f"#{i}" for i in ids}


def test_kinds_stand_beside_numbers(page: str) -> None:
    body = page[page.index("every number with its kind</caption>") :]
    cells = re.findall(r'<span class="v">.*?</span>(?=<span class="v">|</td>)', body)
    assert len(cells) > 40
    assert all(re.search("<small>(STATIC|HOST|EMULATED)</small>", cell) for cell in cells)


def test_without_its_extra_a_page_is_missing(
    tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    result = write(tmp_path / "a.json", one("a.onnx", 0))
    found = call("report", result, "-o", tmp_path / "a.html")
    assert found.code == 4
    assert "pip install 'sepdeploy[report]'" in found.err
    assert not (tmp_path / "a.html").exists()
    assert call("report", result, "-o", tmp_path / "a.md").code == 0  # needs nothing


def test_markdown_for_a_pull_request(tmp_path: Path, call) -> None:
    page = tmp_path / "page.md"
    found = call(*arguments(hostile_folder(tmp_path)), "-o", page)
    assert found.code == 0, found.err
    text = page.read_text("utf-8")
    assert text.startswith("<!-- sepdeploy report -->\n### sepdeploy report\n")
    assert len(text) < 65_536  # what a comment holds
    assert "<script" not in text
    assert "<img" not in text
    heads = re.findall("^(?:####|<details><summary>)(.*?)(?:<|$)", text, re.MULTILINE)
    assert [h.strip() for h in heads[:3]] == ["Verdict", "Results", "Cost against accuracy"]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_a_baseline_gives_the_verdict_first(tmp_path: Path, call) -> None:
    old = write(tmp_path / "old.json", one("a.onnx", 0))
    new = write(tmp_path / "new.json", one("a.onnx", 3))
    assert call("baseline", "update", old, "--baseline", tmp_path / "base.json").code == 0
    page = tmp_path / "page.md"
    assert call("report", new, "-o", page, "--baseline", tmp_path / "base.json").code == 0
    verdict = page.read_text().split("#### Results")[0]
    assert "regression: " in verdict
    assert "file" in verdict
