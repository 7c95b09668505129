"""Made-up ranges of taxa, occurrences in them, and photographs that a model sees near the row of their taxon."""

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bioclip_lite.metrics import calibration
from bioclip_lite.sources.occurrences import Occurrence
from bioclip_lite.taxa.taxonomy import RANKS, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.web import bundle, confidence, prior_fitting
from bioclip_lite.web.parent import Parent
from support import lessons
from support.fake_evaluation import tree

META = """<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">
<core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.tdwg.org/dwc/terms/Occurrence"><files><location>occurrence.txt</location></files><id index="0" />
{fields}</core></archive>"""


def occurrences(leaves: Sequence[TaxonPath], each: int) -> list[Occurrence]:
    """``each`` occurrences of every taxon; relatives live next to each other or far apart, and fly in other months."""
    found = []
    for number, leaf in enumerate(leaves):
        random = lessons.generator("range", number)
        latitude, longitude = 5 * (number % 7) - 15, 12 * (number % 5)
        for _ in range(each):
            month = (3 * number + int(random.integers(4))) % 12 + 1
            down, right = (3 * random.random(2)).tolist()
            found.append(Occurrence(leaf, latitude + down, longitude + right, month))
    return found


def parent_of(leaves: Sequence[TaxonPath], finest_rank: dict[TaxonPath, str], folder: Path) -> Parent:
    """A bundle of these taxa with random rows, as far as a prior needs it."""
    vectors = {leaf: lessons.unit(lessons.generator("row", leaf).normal(size=lessons.D)) for leaf in leaves}
    remarks = {
        leaf: bundle.Remark(False, RANKS.index(finest_rank.get(leaf, RANKS[-1])), None) for leaf in leaves
    }  # fmt: skip
    table = bundle.table_of(vectors, {}, remarks, {}, None)
    about = {
        "embedding": lessons.D,
        "logit_scale": 16.0,
        "temperature": 1.0,
        "files": {},
        "provenance": {},
        "thresholds": None,
    }
    about |= {"ranks": list(RANKS), "taxa": table.described}
    entries = {tuple(entry["ranks"]): entry for entry in table.described}
    return Parent(folder, about, "", entries, table.scales, table.integers)


def photographs(parent: Parent, each: int, noise: float, name: str) -> confidence.Photographs:
    """``each`` photographs of every taxon."""
    rows = store.decode(parent.integers, parent.scales)
    taxa = [leaf for leaf in parent.entries for _ in range(each)]
    embeddings = np.stack(
        [
            lessons.unit(rows[number // each] + noise * lessons.generator(name, number).normal(size=lessons.D))
            for number in range(len(taxa))
        ]
    ).astype(np.float32)
    keys = [f"{name}-{number:04d}" for number in range(len(taxa))]
    return confidence.Photographs(keys, [*keys], taxa, embeddings)


def seen(parent: Parent, some: confidence.Photographs, found: Sequence[Occurrence]) -> prior_fitting.Seen:
    """Photographs that are lent places by occurrences."""
    counted = prior_fitting.count(found, list(parent.entries), Counter())
    return prior_fitting.place_photographs(parent, some, counted, "table.zip")


def sample(species: int = 24) -> list[TaxonPath]:
    """The taxa, in tree order."""
    return sorted(tree(species), key=lambda path: tuple(name or "" for name in path))


def truth_of(parent: Parent, taxa: Sequence[TaxonPath]) -> tuple[np.ndarray, np.ndarray]:
    """(``node_of_leaf``, ``truth_nodes``) of labels among the taxa of a bundle."""
    leaves = list(parent.entries)
    return calibration.nodes_of(leaves), calibration.place(taxa, leaves)


# ---- tables as GBIF gives them

COLUMNS = (
    *("gbifID", "occurrenceStatus", "basisOfRecord", "kingdom", "phylum", "class", "order", "family", "genus"),
    *("species", "taxonRank", "scientificName", "decimalLatitude", "decimalLongitude"),
    *("coordinateUncertaintyInMeters", "eventDate", "day", "month", "year"),
)


def rows(found: Sequence[Occurrence]) -> Iterator[dict[str, str]]:
    """Rows of a download; GBIF's family is another than the list's, and a name has a stray quotation mark."""
    for number, (path, latitude, longitude, month) in enumerate(found):
        yield {
            **dict(zip(RANKS[:6], (path[0] or "", "", "", "", "Otheridae", path[5] or ""), strict=True)),
            **{"gbifID": str(number), "occurrenceStatus": "PRESENT", "basisOfRecord": "HUMAN_OBSERVATION"},
            **{"species": scientific_name(path), "taxonRank": "SPECIES"},
            "scientificName": f'{scientific_name(path)} "L., 1758',
            **{"decimalLatitude": str(latitude), "decimalLongitude": str(longitude)},
            **{"coordinateUncertaintyInMeters": "", "day": "3", "month": str(month), "year": "2021"},
            "eventDate": f"2021-{month:02d}-03T10:00:00",
        }


def simple(found: list[dict[str, str]]) -> str:
    """The text of GBIF's simple download: tabs, no quotation marks."""
    lines = ["\t".join(COLUMNS), *("\t".join(row[name] for name in COLUMNS) for row in found)]
    return "\n".join(lines) + "\n"


def write_simple(path: Path, found: list[dict[str, str]]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("0012345-210914110416597.csv", simple(found))
    return path


def write_archive(path: Path, found: list[dict[str, str]]) -> Path:
    terms = "".join(
        f'<field index="{i}" term="http://rs.tdwg.org/dwc/terms/{name}"/>' for i, name in enumerate(COLUMNS)
    )
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("meta.xml", META.format(fields=terms))
        packed.writestr("occurrence.txt", simple(found))
        packed.writestr("metadata.xml", "<eml/>")
        packed.writestr("rights.txt", io.StringIO("").read())
    return path
