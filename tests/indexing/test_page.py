import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bioclip_lite.indexing import page
from bioclip_lite.indexing.contact_sheet import draw_contact_sheet
from bioclip_lite.indexing.page import Facts
from bioclip_lite.indexing.tables import TAXA
from bioclip_lite.taxa import taxonomy
from support.photographs import DAISY, GANNET, encoded, picture

VOID = {"meta", "br", "img", "line", "polygon", "polyline", "input"}


class Page(HTMLParser):
    """What a page asks for, and whether its elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wanted: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.wanted += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def taxa(number: int) -> pa.Table:
    rng = np.random.default_rng(0)
    rows = [
        {
            "taxon_id": f"{i:016x}",
            **dict(zip(taxonomy.RANKS, (*DAISY[:6], f"epithet{i}"), strict=True)),
            "common_name": f"Common name {i}",
            "rank": "species",
            "leaf": True,
            **dict(zip(("pretrain", "train", "val", "calibration", "test"), (0, int(n), 1, 0, 0), strict=True)),
            "common_names": [],
            "listed": True,
            "synonyms": [],
        }
        for i, n in enumerate(rng.zipf(1.7, number).clip(0, 100_000))
    ]
    return pa.Table.from_pylist(rows, TAXA)


def facts(**more: Any) -> Facts:
    plain: dict[str, Any] = {
        "splits": {"train": 30, "test": 10},
        "unlabelled": 0,
        "truncated": 0,
        "observations": 38,
        "taxa": taxa(5),
        "rejects": {},
        "examples": {},
        "look_alikes": (0, 0, 0),
        "pairs": [],
        "licences": {"CC0": 30, "": 10},
        "names": [],
        "listed": None,
        "taxonomy": None,
        "teacher_saw": {},
    }
    return Facts(**plain | more)


def nothing(locator: str) -> bytes:
    raise FileNotFoundError(locator)


def test_a_page_asks_for_nothing_and_is_well_formed() -> None:
    shown = Page(page.page(facts(), nothing))
    assert not shown.open and not shown.wanted
    assert "Photographs40of 38 observations" in shown.text
    assert "30 of 40 photographs may be published" in shown.text


def test_the_script_is_the_one_that_the_policy_allows() -> None:
    html = page.page(facts(), nothing)
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


EVIL = '<img src=x onerror="alert(1)">&\x00\u202e\ud800'


def test_all_text_is_escaped() -> None:
    table = taxa(3).to_pylist()
    table[0]["genus"] = table[0]["common_name"] = table[0]["family"] = EVIL.replace("\ud800", "")
    html = page.page(
        facts(
            taxa=pa.Table.from_pylist(table, TAXA),
            rejects={EVIL: 2},
            examples={EVIL: [(EVIL, EVIL)]},
            look_alikes=(2, 1, 1),
            pairs=[(EVIL, EVIL, EVIL, "b")],
            licences={EVIL: 3},
            names=[
                ("source", EVIL, EVIL, "0", "changed", EVIL, (), 3),
                ("source", EVIL, None, None, "ambiguous", None, (EVIL,), 3),
                ("species list", EVIL, None, None, "unmatched", None, (EVIL,), None),
            ],
        ),
        nothing,
    )
    assert not Page(html).wanted and "<img src=x" not in html and "\u202e" not in html and "\x00" not in html
    html.encode()
    assert "labels differ" in html and html.count("&lt;img src=x") > 10


def test_thumbnails_are_small_and_limited() -> None:
    large = encoded(picture("large", size=(1600, 1200)), quality=95)
    examples = {f"reason {i}": [(f"{i}-{j}.jpg", "why") for j in range(page.EXAMPLES)] for i in range(12)}
    pairs = [(f"{i}.jpg", "a", f"{i}b.jpg", "a") for i in range(page.PAIRS)]
    html = page.page(
        facts(rejects=dict.fromkeys(examples, 9), examples=examples, look_alikes=(24, 12, 0), pairs=pairs),
        lambda locator: large,
    )
    shown = Page(html)
    assert len(shown.wanted) == 36 + 2 * page.PAIRS
    assert all(source.startswith("data:image/jpeg;base64,") for source in shown.wanted)
    assert len(html) < 500_000


def test_what_is_left_of_a_truncated_photograph_is_shown_and_nothing_of_no_photograph() -> None:
    good = encoded(picture("half", size=(200, 150)))
    files = {"half.jpg": good[: len(good) // 2], "text.jpg": b"text", "empty.jpg": b""}
    examples = {"damaged": [(name, "why") for name in files]}
    shown = Page(page.page(facts(rejects={"damaged": 3}, examples=examples), files.__getitem__))
    assert len(shown.wanted) == 1 and shown.text.count("no picture") == 2


@pytest.mark.parametrize("number", [1, 2, 5000])
def test_any_number_of_taxa_gives_a_page_of_limited_size(number: int) -> None:
    html = page.page(facts(taxa=taxa(number)), nothing)
    assert not Page(html).open
    assert len(html) < 1_500_000
    assert ("The 2,000 most frequent of 5,000" in html) == (number == 5000)
    assert ("<svg" in html) == (number > 1)
    assert all(len(points.split()) <= 302 for points in re.findall('points="([^"]*)"', html))


def test_the_long_tail_says_how_uneven_it_is() -> None:
    table = taxa(4).to_pylist()
    for row, count in zip(table, (1, 99, 2, 8), strict=True):
        row |= {"train": count, "val": 0}
    html = " ".join(page.page(facts(taxa=pa.Table.from_pylist(table, TAXA)), nothing).split())
    assert "Half of the photographs are of 1 taxon of 4; 3 taxa have fewer than ten." in html
    assert "Most: 99, median: 5, fewest: 1." in html


def test_the_contact_sheet_does_without_photographs_that_have_gone(tmp_path: Path) -> None:
    files = {"a": encoded(picture("a")), "b": b"broken"}
    rows = [(DAISY, "Daisy\n\x00\u202e", ["a", "b"]), (GANNET, None, ["absent"])]

    def read(locator: str) -> bytes:
        if locator not in files:
            raise FileNotFoundError(locator)
        return files[locator]

    draw_contact_sheet(tmp_path / "sheet.png", "two", rows, read)
    with Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())) as sheet:
        assert sheet.width > 300


def test_what_the_teacher_was_trained_on_is_counted_where_its_catalogue_is_known() -> None:
    assert "What the teacher was trained on" not in page.page(facts(), nothing)
    shown = Page(page.page(facts(teacher_saw={"train": (20, 8, 2), "test": (1234, 5, 0)}), nothing))
    assert "test" in shown.text and "1,234" in shown.text
    assert not shown.open
