"""Small taxonomies in exactly the forms in which the large ones are published."""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bioclip_lite.taxa.taxonomy import RANKS


class Row(NamedTuple):
    """A name of a taxonomy."""

    id: int
    parent: int | None  # of an accepted name
    rank: str
    name: str
    author: str = ""
    accepted: int | None = None  # of a synonym
    status: str = "accepted"


ROWS = (
    Row(1, None, "kingdom", "Plantae"),
    Row(2, 1, "phylum", "Tracheophyta"),
    Row(3, 2, "class", "Magnoliopsida"),
    Row(4, 3, "order", "Asterales"),
    Row(5, 4, "family", "Asteraceae", "Bercht. & J.Presl"),
    Row(6, 5, "subfamily", "Asteroideae"),
    Row(7, 6, "tribe", "Astereae", "Cass."),
    # A synonym may stand before what it leads to.
    Row(90, None, "species", "Bellis hortensis", "Mill.", 10, "synonym"),
    Row(8, 7, "genus", "Bellis", "L."),
    Row(9, 8, "species", "Bellis annua", "L."),
    Row(10, 8, "species", "Bellis perennis", "L."),
    Row(11, 10, "subspecies", "Bellis perennis subsp. hybrida", "(Ten.) Nyman"),
    Row(12, 3, "order", "Rosales"),
    Row(13, 12, "family", "Moraceae", "Gaudich."),
    Row(14, 13, "genus", "Morus", "L."),
    Row(15, 14, "species", "Morus alba", "L."),
    Row(20, None, "kingdom", "Animalia"),
    Row(21, 20, "phylum", "Chordata"),
    Row(22, 21, "class", "Aves"),
    Row(23, 22, "order", "Suliformes"),
    Row(24, 23, "family", "Sulidae", "Reichenbach, 1849"),
    Row(25, 24, "genus", "Morus", "Vieillot, 1816"),
    Row(26, 25, "species", "Morus bassanus", "(Linnaeus, 1758)"),
    Row(91, None, "species", "Sula bassana", "(Linnaeus, 1758)", 26, "synonym"),
)
SPECIES, GENUS = "species", "genus"
COMMON_NAMES = (
    (10, "Common Daisy", "en"),
    (10, "Lawn Daisy", "en"),
    (10, "Gänseblümchen", "de"),
    (26, "Northern Gannet", "en"),
    (99, "nobody", "en"),
)
THREE_LETTERS = {"en": "eng", "de": "deu"}
LANGUAGES = {"en": "English", "de": "German"}


def lineage(row: Row, rows: Sequence[Row] = ROWS) -> dict[str, str]:
    """The names of the ranks above a row, and its own, from kingdom to genus."""
    by_id = {row.id: row for row in rows}
    one: Row | None = by_id[row.accepted] if row.accepted else row
    found = {}
    while one:
        found[one.rank] = one.name
        one = by_id[one.parent] if one.parent else None
    return {rank: found.get(rank, "") for rank in RANKS[:6]}


def full(row: Row) -> str:
    return f"{row.name} {row.author}".strip()


def parts(row: Row) -> tuple[str, str, str]:
    """Genus, epithet, and the epithet below the species."""
    words = [word for word in row.name.split() if not word.endswith(".")]
    return (*words, "", "")[:3] if len(words) > 1 else ("", "", "")  # type: ignore[return-value]


def tsv(header: str, rows: Iterable[Sequence[object]]) -> str:
    columns = header.split()
    lines = ["\t".join("" if value is None else str(value) for value in row) for row in rows]
    assert all(line.count("\t") == len(columns) - 1 for line in lines)
    return "\n".join(["\t".join(columns), *lines, ""])


def comma(header: str, rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header.split(","), *rows])
    return text.getvalue()


def meta(core: str, extension: str, core_terms: str, extension_terms: str, separator: str, quote: str) -> str:
    """meta.xml of a Darwin Core archive of taxa with common names."""

    def part(tag: str, kind: str, file: str, identity: str, terms: str) -> str:
        fields = "".join(
            f'<field index="{i}" term="http://rs.tdwg.org/dwc/terms/{term.rpartition(":")[2]}"/>'
            for i, term in enumerate(terms.replace(",", " ").split())
        )
        return (
            f'<{tag} encoding="UTF-8" fieldsTerminatedBy="{separator}" linesTerminatedBy="\\n" '
            f'fieldsEnclosedBy="{quote}" ignoreHeaderLines="1" rowType="{kind}">'
            f'<files><location>{file}</location></files><{identity} index="0"/>{fields}</{tag}>'
        )

    kinds = "http://rs.tdwg.org/dwc/terms/Taxon", "http://rs.gbif.org/terms/1.0/VernacularName"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">'
        + part("core", kinds[0], core, "id", core_terms)
        + part("extension", kinds[1], extension, "coreid", extension_terms)
        + "</archive>"
    )


EML = (
    '<eml:eml xmlns:eml="eml://ecoinformatics.org/eml-2.1.1"><dataset><title>GBIF Backbone Taxonomy</title>'
    "<pubDate>2023-08-28</pubDate></dataset></eml:eml>"
)


def put(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def packed(file: Path, contents: dict[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return file


# ----------------------------------------------------------------------------------------------------------------- GBIF

GBIF_TAXON = (
    "taxonID datasetID parentNameUsageID acceptedNameUsageID originalNameUsageID scientificName "
    "scientificNameAuthorship canonicalName genericName specificEpithet infraspecificEpithet taxonRank "
    "nameAccordingTo namePublishedIn taxonomicStatus nomenclaturalStatus taxonRemarks kingdom phylum class order "
    "family genus"
)
GBIF_COMMON = "taxonID vernacularName language country countryCode sex lifeStage source"


def gbif_files(rows: Sequence[Row] = ROWS) -> dict[str, str]:
    def taxon(row: Row) -> tuple[object, ...]:
        canonical = row.name.replace("subsp. ", "")
        by_id = {other.id: other for other in rows}
        parent = by_id[row.accepted].parent if row.accepted else row.parent
        named = (row.author, canonical, *parts(row), row.rank, "", "", row.status, "", "")
        return row.id, "7ddf754f", parent, row.accepted, None, full(row), *named, *lineage(row, rows).values()

    common = ((taxon, name, language, "", "", "", "", "a list") for taxon, name, language in COMMON_NAMES)
    return {
        "meta.xml": meta("Taxon.tsv", "VernacularName.tsv", GBIF_TAXON, GBIF_COMMON, "\\t", ""),
        "eml.xml": EML,
        "Taxon.tsv": tsv(GBIF_TAXON, map(taxon, rows)),
        "VernacularName.tsv": tsv(GBIF_COMMON, common),
        "Distribution.tsv": tsv("taxonID locationID locality", [(10, "", "Europe")]),
    }


def gbif_simple(rows: Sequence[Row] = ROWS) -> str:
    """backbone-current-simple.txt: no header, "\\N" where nothing is, the parent of a synonym is its accepted name."""
    lines = []
    for row in rows:
        genus, epithet, below = parts(row)
        lines.append(
            [
                *(row.id, row.accepted or row.parent, None, "t" if row.accepted else "f"),
                *(row.status.upper().replace(" ", "_"), row.rank.upper(), "{}", None, "SOURCE", None),
                *([None] * 7),
                *(
                    row.id,
                    full(row),
                    row.name.replace("subsp. ", ""),
                    genus or row.name,
                    epithet or None,
                    below or None,
                ),
                *(None, row.author or None, None, None, None, None, "{}"),
            ]
        )
    assert {len(line) for line in lines} == {30}
    return "".join("\t".join("\\N" if value is None else str(value) for value in line) + "\n" for line in lines)


# ---------------------------------------------------------------------------------------------------- Catalogue of Life

COL_TAXON = (
    "dwc:taxonID dwc:parentNameUsageID dwc:acceptedNameUsageID dwc:originalNameUsageID dwc:scientificNameID "
    "dwc:datasetID dwc:taxonomicStatus dwc:taxonRank dwc:scientificName dwc:scientificNameAuthorship col:notho "
    "dwc:genericName dwc:infragenericEpithet dwc:specificEpithet dwc:infraspecificEpithet dwc:cultivarEpithet "
    "dwc:nameAccordingTo dwc:namePublishedIn dwc:nomenclaturalCode dwc:nomenclaturalStatus dwc:taxonRemarks "
    "dcterms:references"
)
COLDP_USAGE = (
    "col:ID col:alternativeID col:nameAlternativeID col:sourceID col:parentID col:basionymID col:status "
    "col:scientificName col:authorship col:rank col:notho col:originalSpelling col:uninomial col:genericName "
    "col:infragenericEpithet col:specificEpithet col:infraspecificEpithet"
)
COLDP_COMMON = (
    "col:taxonID col:sourceID col:name col:transliteration col:language col:preferred col:country col:area col:sex"
)


def col_id(number: int | None) -> str | None:
    return None if number is None else f"6{number:X}W"


def col_dwc(rows: Sequence[Row] = ROWS) -> dict[str, str]:
    def taxon(row: Row) -> tuple[object, ...]:
        genus, epithet, below = parts(row)
        ids = col_id(row.id), col_id(row.parent), col_id(row.accepted)
        names = (row.status, row.rank, full(row), row.author, "", genus, "", epithet, below)
        return *ids, None, None, 1141, *names, *("" for _ in range(7))

    common = [(col_id(taxon), THREE_LETTERS[language], name) for taxon, name, language in COMMON_NAMES]
    terms = "dwc:taxonID dcterms:language dwc:vernacularName"
    return {"Taxon.tsv": tsv(COL_TAXON, map(taxon, rows)), "VernacularName.tsv": tsv(terms, common)}


def coldp(rows: Sequence[Row] = ROWS) -> dict[str, str]:
    def usage(row: Row) -> tuple[object, ...]:
        genus, epithet, below = parts(row)
        up = col_id(row.accepted or row.parent)
        names = (row.status, row.name, row.author, row.rank, "", "", "" if genus else row.name, genus, "")
        return col_id(row.id), "", "", 1141, up, "", *names, epithet, below

    common = [
        (col_id(taxon), "", name, name, THREE_LETTERS[language], name == "Lawn Daisy", "", "", "")
        for taxon, name, language in COMMON_NAMES
    ]
    return {
        "metadata.yaml": "---\nkey: 299029\ntitle: Catalogue of Life\nissued: 2024-06-26\nversion: '2024'\n",
        "NameUsage.tsv": tsv(COLDP_USAGE, map(usage, rows)),
        "NameRelation.tsv": tsv("col:nameID col:relatedNameID col:sourceID col:type", [("6AW", "6AW", "", "basionym")]),
        "VernacularName.tsv": tsv(COLDP_COMMON, common),
    }


# ---------------------------------------------------------------------------------------------------------- iNaturalist

INAT_TAXA = (
    "id,taxonID,identifier,parentNameUsageID,kingdom,phylum,class,order,family,genus,specificEpithet,"
    "infraspecificEpithet,modified,scientificName,taxonRank,references"
)
INAT_COMMON = "id,vernacularName,language,locality,countryCode,source,lexicon,contributor,created"
INAT_ROOT = 48460
LEVELS = {"kingdom": 70, "phylum": 60, "class": 50, "order": 40, "family": 30, "genus": 20, "species": 10}


def inat_dwca() -> dict[str, str]:
    """Only active taxa, no synonyms; rows of common names have one value less than their header."""
    page = "https://www.inaturalist.org/taxa/{}".format
    rows = []
    for row in ROWS:
        if not row.accepted:
            _, epithet, below = parts(row)
            above = lineage(row).values()
            up = page(row.parent or INAT_ROOT)
            name = row.name.replace("subsp. ", "")
            told = (epithet, below, "2021-11-02T06:05:44Z", name, row.rank, "")
            rows.append((row.id, page(row.id), page(row.id), up, *above, *told))
    return {"taxa.csv": comma(INAT_TAXA, rows), "eml.xml": "<eml/>"} | {
        f"VernacularNames-{LANGUAGES[code].lower()}.csv": comma(
            INAT_COMMON,
            [
                (taxon, name, code, "", "", LANGUAGES[code], "", "2008-03-13T02:35:09Z")
                for taxon, name, language in COMMON_NAMES
                if language == code
            ],
        )
        for code in LANGUAGES
    }


def inat_open_data() -> str:
    """taxa.csv of the bucket: ancestors as a path of numbers; names no longer in use are not active."""
    by_id = {row.id: row for row in ROWS}

    def ancestry(row: Row) -> str:
        row = by_id[row.accepted] if row.accepted else row
        up = by_id[row.parent] if row.parent else None
        return f"{ancestry(up)}/{up.id}" if up else str(INAT_ROOT)

    rows = [
        (row.id, ancestry(row), LEVELS.get(row.rank, 5), row.rank, row.name.replace("subsp. ", ""), active)
        for row in ROWS
        for active in ["false" if row.accepted else "true"]
    ]
    return tsv(
        "taxon_id ancestry rank_level rank name active", [(INAT_ROOT, "", 100, "stateofmatter", "Life", "true"), *rows]
    )


# ---------------------------------------------------------------------------------------------------- plain Darwin Core


def checklist() -> str:
    """A checklist with columns of ranks, without parents."""
    header = (
        "taxonID,acceptedNameUsageID,scientificName,taxonRank,taxonomicStatus,kingdom,phylum,class,order,family,genus"
    )
    rows = [
        (f"lsid:{row.id}", f"lsid:{row.accepted or row.id}", full(row), row.rank, row.status, *lineage(row).values())
        for row in ROWS
        if row.rank == "species"
    ]
    return comma(header, rows)


def zipped(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def _file(name: str, content: Callable[[], str | bytes]) -> Callable[[Path], str]:
    def write(lists: Path) -> str:
        made = content()
        lists.mkdir(parents=True, exist_ok=True)
        (lists / name).write_bytes(made if isinstance(made, bytes) else made.encode())
        return name

    return write


def _folder(contents: Callable[[], dict[str, str]]) -> Callable[[Path], str]:
    return lambda lists: put(lists / "taxonomy", contents()).name


def _archive(contents: Callable[[], dict[str, str]], inside: str = "") -> Callable[[Path], str]:
    return lambda lists: packed(lists / "download", {inside + k: v for k, v in contents().items()}).name


# Each writes a taxonomy into a folder of lists and returns its name there, which says nothing about its form.
FORMS: dict[str, Callable[[Path], str]] = {
    "GBIF archive": _archive(gbif_files),
    "GBIF folder": _folder(gbif_files),
    "GBIF Taxon.tsv": _file("names.dat", lambda: gbif_files()["Taxon.tsv"]),
    "GBIF simple": _file("backbone", lambda: zipped(gbif_simple())),
    "COL archive": _archive(col_dwc),
    "COL folder": _folder(col_dwc),
    "ColDP archive": _archive(coldp),
    "ColDP NameUsage": _file("usage.txt", lambda: coldp()["NameUsage.tsv"]),
    "iNaturalist archive": _archive(inat_dwca),
    "iNaturalist folder": _folder(inat_dwca),
    "iNaturalist in a folder of the archive": _archive(inat_dwca, "inaturalist-taxonomy/"),
    "iNaturalist open data": _file("taxa.csv.gz", lambda: zipped(inat_open_data())),
    "checklist": _file("checklist.csv", checklist),
}
WITH_SYNONYMS = {name for name in FORMS if not name.startswith("iNaturalist")}
WITH_COMMON_NAMES = {name for name in FORMS if "archive" in name or "folder" in name}
