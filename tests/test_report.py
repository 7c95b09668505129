"""The page: complete in itself, the numbers of metrics.json, and safe against what names may hold."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite import report, report_doubt
from bioclip_lite.files import read_json
from bioclip_lite.stages import evaluate
from bioclip_lite.taxonomy import RANKS, label_space
from fake_evaluation import PARAMS, tree, write_data, write_prediction

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Text, addresses and balance of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def made(data: Path, **options: Any) -> tuple[str, Page, dict[str, Any]]:
    write_data(data, **options)
    evaluate.run(PARAMS, data, "report")
    html = (data / "evaluate" / "report.html").read_text()
    return html, Page(html), read_json(data / "evaluate" / "metrics.json")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page, dict[str, Any]]:
    return made(tmp_path_factory.mktemp("report"))


def test_page_asks_for_nothing_else(page: tuple[str, Page, dict[str, Any]]) -> None:
    html, parsed, _ = page
    assert parsed.addresses and all(address.startswith("data:image/") for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_page_is_well_formed(page: tuple[str, Page, dict[str, Any]]) -> None:
    _, parsed, _ = page
    assert parsed.open == []
    assert parsed.tags.count("h1") == 1


def test_page_shows_the_numbers_of_metrics(page: tuple[str, Page, dict[str, Any]]) -> None:
    _, parsed, metrics = page
    cells = {text.strip() for text in parsed.text}
    for row in metrics["variants"].values():
        for number in (row["top1"], row["top5"], *(row["per_rank"][rank] for rank in RANKS)):
            assert f"{100 * number['value']:.1f}" in cells
            assert "\u2013".join(f"{100 * bound:.1f}" for bound in number["ci95"]) in cells
    assert metrics["protocol"]["id"] in " ".join(parsed.text)
    lead = f"{metrics['protocol']['n_images']} test photographs of {metrics['protocol']['n_groups']} observations"
    assert lead in " ".join(parsed.text)


def test_headlines_say_how_many(page: tuple[str, Page, dict[str, Any]]) -> None:
    variants = page[2]["variants"]
    sentences = report.headlines(variants)
    assert f"{100 * variants['tfjs']['top1']['value']:.1f} %" in sentences[0]
    assert "60 photographs of 12 species" in sentences[0]
    assert any("2 species without a training photograph (10 test photographs)" in sentence for sentence in sentences)


def test_confusion_holds_every_photograph(page: tuple[str, Page, dict[str, Any]]) -> None:
    table = page[0].partition('<table class="confusion">')[2].partition("</table>")[0]
    assert sum(map(int, re.findall(r">(\d+)</td>", table))) == 60  # at the species: two are known to genus only
    assert page[0].count("What each species is taken for") == 1


def test_headline_of_back_off_adds_up(page: tuple[str, Page, dict[str, Any]]) -> None:
    shipped = page[2]["variants"]["tfjs"]
    first, second = report_doubt.headline(shipped)
    shares = [float(share) for share in re.findall(r"in (?:<b>)?([\d.]+) %", first)]
    assert sum(shares) == pytest.approx(100, abs=0.3) and len(shares) == 5
    assert f"{100 * shipped['back_off']['right']['value']:.1f} %" in first
    assert "for other species" in second
    assert "promise kept" in page[0]


def test_headline_without_a_promise(page: tuple[str, Page, dict[str, Any]]) -> None:
    (sentence,) = report_doubt.headline(page[2]["variants"]["random"])
    assert "cannot promise to be right in 95 %" in sentence and "208 observations" in sentence


def test_gain_and_loss_follow_the_sign() -> None:
    def sentence(value: float, low: float, high: float) -> str:
        return report._compared("The student", {"value": value, "ci95": [low, high]}, "over it")

    assert "gains <b>5.0 points</b>" in sentence(0.05, 0.01, 0.09) and "includes 0" not in sentence(0.05, 0.01, 0.09)
    assert "loses <b>5.0 points</b>" in sentence(-0.05, -0.11, 0.01) and "includes 0" in sentence(-0.05, -0.11, 0.01)
    assert "neither gains nor loses" in sentence(0.0001, -0.01, 0.01)


def test_names_are_escaped(tmp_path: Path) -> None:
    paths = [(*path[:6], f"<script>alert('{path[6]}')</script>&\"") for path in tree(4)]
    html, parsed, _ = made(tmp_path, paths=paths, known_to_genus=0)
    assert "script" not in parsed.tags and "<script" not in html
    assert "&lt;script&gt;" in html


def test_empty_cases(tmp_path: Path) -> None:
    """No unseen species, no common names, and nothing that the shipped model gets wrong."""
    options: dict[str, Any] = {"species": 4, "images": 2, "unseen": 0, "known_to_genus": 0, "common_names": False}
    labels = write_data(tmp_path, **options)
    leaves = label_space(labels.values())
    right = [[9.0 * (leaf == path) for leaf in leaves] for path in labels.values()]
    for variant in evaluate.VARIANTS:
        write_prediction(tmp_path, variant, list(labels), leaves, np.array(right, np.float32))
    evaluate.run({**PARAMS, "examples": 0}, tmp_path, "report")
    text = " ".join(Page((tmp_path / "evaluate" / "report.html").read_text()).text)
    assert "Every species of the test photographs has training photographs" in text
    assert "Examples" not in text and "wrong most" not in text
    assert "neither gains nor loses" in text


def test_thumbnails_carry_no_metadata(page: tuple[str, Page, dict[str, Any]]) -> None:
    thumbnails = [a.partition(",")[2] for a in page[1].addresses if a.startswith("data:image/jpeg")]
    assert len(thumbnails) == PARAMS["examples"] + page[0].count('<tr><th scope="row"><img')
    assert all(b"Exif" not in base64.b64decode(thumbnail) for thumbnail in thumbnails)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "\u2013"),
        (0, "\u2013"),
        (999, "999 bytes"),
        (1_450_000, "1.45 MB"),
        (20_932_800, "20.9 MB"),
        (346e6, "346 MB"),
    ],
)
def test_sizes_are_decimal(count: float | None, text: str) -> None:
    assert report.size(count) == text


def test_points_have_a_sign() -> None:
    assert [report.points(x) for x in (0.012, -0.012, -0.0001, None)] == ["+1.2", "\u22121.2", "0.0", "\u2013"]
