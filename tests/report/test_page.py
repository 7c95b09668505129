"""The page: complete in itself, the numbers of metrics.json, and safe against what names may hold."""

import base64
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bioclip_lite.evaluation.variant_names import VARIANTS
from bioclip_lite.report import plots
from bioclip_lite.report.findings import findings
from bioclip_lite.report.text import LABELS, points, size
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.taxonomy import RANKS, label_space
from bioclip_lite.utils.files import read_json
from support.checkout import ROOT
from support.fake_evaluation import PARAMS, tree, write_data, write_prediction

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


def sentences(variants: dict[str, Any], protocol: dict[str, Any]) -> list[str]:
    """The findings at the head of the page, each on one line."""
    return [" ".join(item.split()) for item in re.findall("<li>(.*?)</li>", findings(variants, protocol), re.DOTALL)]


def test_an_ensemble_stands_beside_its_first_teacher(page: tuple[str, Page, dict[str, Any]]) -> None:
    variants, protocol = page[2]["variants"], page[2]["protocol"]
    assert "The teacher reaches" in sentences(variants, protocol)[0]
    together = variants | {"ensemble": {"top1": {"value": 0.987}}}
    first = (
        f"The first teacher reaches {100 * variants['teacher']['top1']['value']:.1f} %, all teachers together 98.7 %."
    )
    assert first in sentences(together, protocol)[0]


def test_page_asks_for_nothing_else(page: tuple[str, Page, dict[str, Any]]) -> None:
    html, parsed, _ = page
    assert parsed.addresses and all(address.startswith(("data:image/", "#s")) for address in parsed.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_contents_lead_to_every_section(page: tuple[str, Page, dict[str, Any]]) -> None:
    html, parsed, _ = page
    links = [address for address in parsed.addresses if address.startswith("#")]
    assert links == [f"#s{n}" for n in range(1, html.count("<section") + 1)]
    assert all(html.count(f'<section id="{link[1:]}">') == 1 for link in links)


def test_every_figure_says_in_words_what_it_shows(page: tuple[str, Page, dict[str, Any]]) -> None:
    html, _, metrics = page
    alts = re.findall(r'<img src="data:image/png[^"]*" alt="([^"]+)"', html)
    assert len(alts) == html.count("<figcaption>") == 5
    web = metrics["variants"]["tfjs"]
    assert f"Web model {100 * web['top1']['value']:.1f} % at 4.91 ms" in alts[1].replace("&nbsp;", " ")


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
    assert lead in " ".join("".join(parsed.text).split())


def test_metrics_report_and_card_say_the_same(page: tuple[str, Page, dict[str, Any]], tmp_path: Path) -> None:
    """The numbers of the rank table, of the card's table and of DVC's short list are those of metrics.json."""
    html, _, metrics = page
    variants = metrics["variants"]
    write_data(tmp_path)
    evaluate.run(PARAMS, tmp_path, "report")
    card = (tmp_path / "evaluate" / "MODEL_CARD.md").read_text()
    short = read_json(tmp_path / "evaluate" / "headline.json")
    table = html.partition('<table class="ranks">')[2].partition("</table>")[0]
    for rank in RANKS:
        line = next(row for row in re.split("<tr[^>]*>", table) if f">{rank.capitalize()}<" in row)
        cells = re.findall(r"<td[^>]*>([\d.]+)<small>([\d.]+)\u2013([\d.]+)</small>", line)
        expected = [variants[variant]["per_rank"][rank] for variant in VARIANTS]  # as the page orders them
        assert cells == [tuple(f"{100 * x:.1f}" for x in (row["value"], *row["ci95"])) for row in expected]
    for name, row in (line.strip("| ").split(" | ", 1) for line in card.splitlines() if line.startswith("| ")):
        variant = next((v for v, label in LABELS.items() if label == name), None)
        if variant:
            ranks = variants[variant]["per_rank"]
            numbers = [number["value"] for number in (variants[variant]["top1"], ranks["genus"], ranks["family"])]
            assert [part.split(" ")[0] for part in row.split(" | ")[:3]] == [f"{100 * x:.1f}" for x in numbers]
    assert {v: row["species_right"] for v, row in short.items()} == {
        v: row["top1"]["value"] for v, row in variants.items()
    }
    mostly = variants["tfjs"]["back_off"]["macro"]["species"]["mostly_right"]
    assert short["tfjs"]["species_mostly_right_with_back_off"] == mostly["value"]
    said = f"{100 * mostly['value']:.1f} % of {mostly['n_classes']} species (" + "\u2013".join(
        f"{100 * bound:.1f}" for bound in mostly["ci95"]
    )
    assert said in card and f"For <b>{100 * mostly['value']:.1f}&nbsp;%</b>" in html
    points = (tmp_path / "evaluate" / "plots" / "back_off.csv").read_text().splitlines()
    drawn = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"][2]["answered_at_each_promise"]["y"]
    assert set(drawn["data/evaluate/plots/back_off.csv"]) <= set(points[0].split(","))
    at = dict(
        zip(points[0].split(","), next(row for row in points if row.startswith("95.00,")).split(","), strict=True)
    )
    assert at["species_mostly_right"] == f"{100 * mostly['value']:.2f}"
    assert short["tfjs"]["haurc"] == variants["tfjs"]["back_off"]["haurc"]["value"]
    assert f"{variants['tfjs']['back_off']['haurc']['value']:.3f}" in html


def test_taxa_above_the_species_in_the_list_are_said_to_compete(tmp_path: Path) -> None:
    """A photograph that is taken for a taxon known to its genus only: wrong, but not among the species."""
    paths = [*tree(4), (*tree(4)[0][:5], "Alienus", None)]
    labels = write_data(tmp_path, paths=paths, images=4, unseen=0, known_to_genus=0)
    leaves = label_space(paths)
    logits = np.array([[9.0 * (leaf == path) for leaf in leaves] for path in labels.values()], np.float32)
    first = next(row for row, path in enumerate(labels.values()) if path[6])
    logits[first] += 10.0 * np.array([leaf[6] is None for leaf in leaves])
    write_prediction(tmp_path, "tfjs", list(labels), leaves, logits)
    evaluate.run(PARAMS, tmp_path, "report")
    row = read_json(tmp_path / "evaluate" / "metrics.json")["variants"]["tfjs"]
    assert row["top1"]["value"] == 15 / 16 < row["per_rank"]["species"]["value"] == 1
    html = (tmp_path / "evaluate" / "report.html").read_text()
    text = " ".join("".join(Page(html).text).replace("\xa0", " ").split())
    assert "everywhere else on this page all taxa do, and the web model is correct in 93.8 %" in text
    card = (tmp_path / "evaluate" / "MODEL_CARD.md").read_text()
    assert next(line for line in card.splitlines() if line.startswith("| Web model")).startswith("| Web model | 93.8 (")


def test_what_no_other_model_beats_is_joined() -> None:
    models = {
        "small": (1.0, 80.0),
        "large": (20.0, 92.0),
        "worse": (2.0, 79.0),
        "dear": (20.0, 90.0),
        "mid": (3.0, 85.0),
    }
    assert plots.front(models) == ["small", "mid", "large"]
    assert plots.front({"a": (1.0, 2.0), "b": (1.0, 2.0)}) == ["a", "b"]
    assert plots.front({}) == []


def test_headlines_say_how_many(page: tuple[str, Page, dict[str, Any]]) -> None:
    variants = page[2]["variants"]
    told = sentences(variants, page[2]["protocol"])
    assert f"{100 * variants['tfjs']['top1']['value']:.1f} %" in told[0]
    assert "60 photographs of 12 species" in told[0]
    assert any("2 species without a training photograph (10 test photographs)" in sentence for sentence in told)


def test_confusion_holds_every_photograph(page: tuple[str, Page, dict[str, Any]]) -> None:
    table = page[0].partition('<table class="confusion">')[2].partition("</table>")[0]
    assert sum(map(int, re.findall(r">(\d+)</td>", table))) == 60  # at the species: two are known to genus only
    assert page[0].count("<h2>Confusion matrix at the rank of species</h2>") == 1


def test_headline_of_back_off_adds_up(page: tuple[str, Page, dict[str, Any]]) -> None:
    shipped = page[2]["variants"]["tfjs"]
    first, second = (sentence for sentence in sentences(page[2]["variants"], page[2]["protocol"])[1:3])
    shares = [float(share) for share in re.findall(r"in (?:<b>)?([\d.]+) %", first)]
    assert sum(shares) == pytest.approx(100, abs=0.3) and len(shares) == 5
    assert f"{100 * shipped['back_off']['right']['value']:.1f} %" in first
    assert "For other species" in second
    assert "guarantee holds" in page[0]


def test_headline_without_a_guarantee(page: tuple[str, Page, dict[str, Any]]) -> None:
    variants = page[2]["variants"]
    shipped = variants["tfjs"] | {"back_off": variants["random"]["back_off"]}
    (sentence,) = (
        found for found in sentences(variants | {"tfjs": shipped}, page[2]["protocol"]) if "guarantee" in found
    )
    assert "cannot guarantee that 95 % of its answers are correct" in sentence and "208 observations" in sentence


def test_gain_and_loss_follow_the_sign(page: tuple[str, Page, dict[str, Any]]) -> None:
    def sentence(value: float, low: float, high: float) -> str:
        variants = copy.deepcopy(page[2]["variants"])
        variants["student"]["difference_to"]["control"]["top1"] |= {"value": value, "ci95": [low, high]}
        return next(found for found in sentences(variants, page[2]["protocol"]) if found.startswith("The student"))

    assert "gains <b>5.0 points</b>" in sentence(0.05, 0.01, 0.09) and "includes 0" not in sentence(0.05, 0.01, 0.09)
    assert "loses <b>5.0 points</b>" in sentence(-0.05, -0.11, 0.01) and "includes 0" in sentence(-0.05, -0.11, 0.01)
    assert "neither gains nor loses" in sentence(0.0001, -0.01, 0.01)


def test_a_control_without_a_classifier_is_told(page: tuple[str, Page, dict[str, Any]]) -> None:
    variants = copy.deepcopy(page[2]["variants"])
    assert not any("text embeddings of the taxa" in found for found in sentences(variants, page[2]["protocol"]))
    variants["control"]["fixed_classifier"] = {"instead_of_parameters": 460_000_000, "student_parameters": 11_000_000}
    (told,) = (found for found in sentences(variants, page[2]["protocol"]) if "text embeddings of the taxa" in found)
    assert "460 M parameters" in told and "11 M" in told


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
    for variant in VARIANTS:
        write_prediction(tmp_path, variant, list(labels), leaves, np.array(right, np.float32))
    evaluate.run({**PARAMS, "examples": 0}, tmp_path, "report")
    text = " ".join(Page((tmp_path / "evaluate" / "report.html").read_text()).text)
    assert "Every species of the test photographs has training photographs" in text
    assert "Examples" not in text and "lowest accuracy" not in text
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
    assert size(count) == text


def test_points_have_a_sign() -> None:
    assert [points(x) for x in (0.012, -0.012, -0.0001, None)] == ["+1.2", "\u22121.2", "0.0", "\u2013"]
