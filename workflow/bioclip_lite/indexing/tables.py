"""Write the outputs of stage index from its scratch database: tables, credits, contact sheet and report."""

import csv
import heapq
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bioclip_lite.indexing import list_summary, listed_taxa, names, page, teacher_saw
from bioclip_lite.indexing.contact_sheet import draw_contact_sheet
from bioclip_lite.indexing.labels import WITHOUT_LABEL, Labels
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import LABELLED, NOTHING
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.iconic_groups import supercategory
from bioclip_lite.utils.files import replacing, write_rows, write_table
from bioclip_lite.utils.randomness import digest
from bioclip_lite.utils.spreadsheets import guarded

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import Index

_ROWS = 8192  # in a row group of a table
SHEET_TAXA, SHEET_IMAGES = 40, 8

_TEXT = pa.string()
_NAMES_BY_LANGUAGE = pa.map_(_TEXT, _TEXT)
SAMPLES = pa.schema(
    [
        *((name, _TEXT) for name in ("key", "locator", "split", "taxon_id", "group", *taxonomy.RANKS)),
        *((name, _TEXT) for name in ("common_name", "licence", "attribution")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("clean", pa.bool_()),  # a JPEG file that stage shard takes as it is
        ("md5", _TEXT),
        ("common_names", _NAMES_BY_LANGUAGE),  # by language
        ("verbatim", _TEXT),  # the name as the source has it
        ("phash", pa.uint64()),  # null for a plain image
        ("looks_like", _TEXT),  # key of the first of its near duplicates, its own included; null if it has none
        ("supercategory", _TEXT),  # null where the source states none
        ("caption", _TEXT),  # that the source has of this photograph
        ("teacher_saw", pa.bool_()),  # was the teacher trained on it? null where that is not known
    ]
)
TAXA = pa.schema(
    [
        *((name, _TEXT) for name in ("taxon_id", *taxonomy.RANKS, "common_name", "rank")),
        ("leaf", pa.bool_()),
        *((split, pa.int32()) for split in LABELLED),
        ("common_names", _NAMES_BY_LANGUAGE),
        ("listed", pa.bool_()),  # whether a line of the species list matches it; true where there is no list
        ("finest_rank", _TEXT),  # no answer goes below it; null for no such limit
        ("note", _TEXT),
        ("synonyms", pa.list_(_TEXT)),
        ("supercategory", _TEXT),  # iNaturalist's iconic group
    ]
)
REJECTS = pa.schema([(name, _TEXT) for name in ("locator", "reason", "detail")])
NAMES = pa.schema(
    [
        ("origin", _TEXT),  # "source" or "species list"
        ("verbatim", _TEXT),
        ("resolved", _TEXT),  # scientific name; null if unknown
        ("taxon_id", _TEXT),
        ("status", _TEXT),  # same, changed, ambiguous, unmatched, no photographs
        ("change", _TEXT),
        ("candidates", pa.list_(_TEXT)),  # what an ambiguous name may mean; otherwise names of the source like it
        ("photographs", pa.int64()),  # in the source, before any is left out
    ]
)

_KEPT = (
    "FROM photograph JOIN observation ON observation.id = photograph.observation "
    "JOIN dealt ON dealt.observation = joined WHERE NOT gone"
)


def write(
    database: sqlite3.Connection,
    labels: Labels,
    matches: list[names.Match],
    listed: Sequence[taxonomy.Path],
    params: "Index",
    out: Path,
) -> page.Facts:
    """Write all files into the folder ``out``; returns the content of the report.

    ``matches``: the lines of the species list; ``listed``: its taxa without photographs.
    """
    taxa = _taxa_table(database, labels.paths, matches, listed)
    read = partial(find_source(params["source"]).read, params)
    # The parameters that shard needs to read the source again travel with the table.
    origin = {name: params[name] for name in ("source", "path", "seed", "synthetic", "downloads")}
    said_of = listed_taxa.said_of(matches)
    called = [said_of(path).common_names for path in labels.paths]
    _write_samples(database, labels, called, out / "samples.parquet", {"source": json.dumps(origin)})
    write_table(out / "taxa.parquet", taxa)
    rejects = database.execute("SELECT locator, reason, detail FROM reject ORDER BY locator, reason, detail")
    write_rows(out / "rejects.parquet", REJECTS, rejects, _ROWS)
    resolved = list(_names(database, labels, matches))
    write_rows(out / "names.parquet", NAMES, iter(resolved), _ROWS)
    _write_attribution(database, labels.paths, out / "ATTRIBUTION.csv")
    rows_shown = _sheet_rows(database, labels.paths, taxa)
    photographed = sum(map(_shown, taxa.select(["leaf", *LABELLED]).to_pylist()))
    title = f"{len(rows_shown)} of {photographed} taxa, in the order of the tree"
    draw_contact_sheet(out / "contact_sheet.png", title, rows_shown, read)
    seen = teacher_saw.counts(database, _KEPT) if params["teacher_saw"] else {}
    facts = _facts(database, labels, taxa, resolved, list_summary.summarize(taxa, matches), seen)
    with replacing(out / "report.html") as scratch:
        scratch.write_text(page.page(facts, read), encoding="utf-8")
    return facts


def _write_samples(
    database: sqlite3.Connection,
    labels: Labels,
    called: Sequence[Mapping[str, str]],
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write samples.parquet; ``called``: common names that the list has for each taxon, for photographs without."""
    ids = [taxonomy.taxon_id(taxon) for taxon in labels.paths]
    rows = database.execute(
        "SELECT key, locator, dealt.split, taxon, joined, common_name, licence, attribution, width, height, clean, "
        f"md5, common_names, label, phash, looks_like, supercategory, caption, teacher_saw {_KEPT} ORDER BY key"
    )

    def row(found: tuple[Any, ...]) -> tuple[Any, ...]:
        (
            key,
            locator,
            split,
            taxon,
            group,
            common_name,
            licence,
            owner,
            width,
            height,
            clean,
            md5,
            others,
            label,
            phash,
            *texts,
            seen,
        ) = found
        verbatim, taxon_id, names_by_rank = None, None, NOTHING
        if label is not None:
            given = labels.given[label]
            verbatim = given.verbatim or taxonomy.scientific_name(given.path) or common_name
            taxon_id, names_by_rank = ids[taxon], labels.paths[taxon]
        unsigned = None if phash is None else phash % (1 << 64)
        own = dict(json.loads(others or "[]"))
        of_list = {} if taxon is None else called[taxon]
        others = [*own.items(), *((word, name) for word, name in of_list.items() if word and word not in own)]
        common_name = common_name or of_list.get("")
        return (
            *(key, locator, split, taxon_id, group, *names_by_rank, common_name, licence, owner, width, height),
            *(bool(clean), md5.hex(), others, verbatim, unsigned, *texts),
            None if seen is None else bool(seen),
        )

    write_rows(path, SAMPLES.with_metadata(metadata), map(row, rows), _ROWS)


def _taxa_table(
    database: sqlite3.Connection,
    paths: Sequence[taxonomy.Path],
    matches: Sequence[names.Match],
    listed: Sequence[taxonomy.Path],
) -> pa.Table:
    images: dict[taxonomy.Path, Counter[str]] = {path: Counter() for path in listed}
    common: dict[taxonomy.Path, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    named = f"{_KEPT} AND taxon NOT NULL"
    for taxon, split, number in database.execute(f"SELECT taxon, dealt.split, count(*) {named} GROUP BY 1, 2"):
        images.setdefault(paths[taxon], Counter())[split] = number
    rows = database.execute(f"SELECT taxon, common_name, common_names, count(*) {named} GROUP BY 1, 2, 3")
    for taxon, name, others, number in rows:
        for language, called in (("", name), *json.loads(others or "[]")):
            if called:
                common[paths[taxon]][language][called] += number
    groups: dict[taxonomy.Path, str] = {}  # the first one that most photographs state
    stated = (
        f"SELECT taxon, supercategory {_KEPT} AND supercategory IS NOT NULL GROUP BY 1, 2 ORDER BY count(*) DESC, 2"
    )
    for taxon, group in database.execute(stated):
        groups.setdefault(paths[taxon], group)
    leaves = set(taxonomy.label_space(images))
    nodes = {node for match in matches for node in listed_taxa.of_list(match)}
    said_of = listed_taxa.said_of(matches)
    table = []
    for path in sorted(images, key=names.order):
        said = said_of(path)
        called = {
            language: min(counts, key=lambda name, counts=counts: (-counts[name], name))  # type: ignore[misc]
            for language, counts in common[path].items()
        }
        called |= said.common_names  # the list's own words come first
        common_name = called.pop("", None)
        table.append(
            {
                "taxon_id": taxonomy.taxon_id(path),
                **dict(zip(taxonomy.RANKS, path, strict=True)),
                "common_name": common_name or called.get("en"),
                "rank": taxonomy.RANKS[taxonomy.label_rank(path)],
                "leaf": path in leaves,
                **{split: images[path][split] for split in LABELLED},
                "common_names": sorted(called.items()),
                "listed": not matches or names.is_listed(path, nodes),
                "finest_rank": said.finest_rank,
                "note": said.note,
                "synonyms": list(said.synonyms),
                "supercategory": groups.get(path) or supercategory(path),
            }
        )
    return pa.Table.from_pylist(table, TAXA)


def _names(database: sqlite3.Connection, labels: Labels, matches: Sequence[names.Match]) -> Iterator[tuple[Any, ...]]:
    """The rows of names.parquet: how the source names its taxa, then the lines of the species list."""
    counts = dict(database.execute("SELECT id, photographs FROM label"))
    rows: dict[tuple[Any, ...], int] = defaultdict(int)
    for number, (label, meaning) in enumerate(zip(labels.given, labels.meanings, strict=True)):
        known = taxonomy.label_rank(meaning.path) >= 0
        verbatim = label.verbatim or taxonomy.scientific_name(label.path) or label.common_name
        status = (
            "ambiguous" if meaning.candidates else "unmatched" if not known else "changed" if meaning.change else "same"
        )
        name = taxonomy.scientific_name(meaning.path) if known else None
        taxon = taxonomy.taxon_id(meaning.path) if known else None
        rows["source", verbatim, name, taxon, status, meaning.change, meaning.candidates] += counts.get(number, 0)
    for row, number in sorted(rows.items(), key=lambda item: tuple(str(value or "") for value in item[0])):
        yield (*row, number)
    yield from map(_name_of_list, matches)


def _name_of_list(match: names.Match) -> tuple[Any, ...]:
    node = next(iter(listed_taxa.of_list(match)), None)
    change = "; ".join(filter(None, (match.entry.change, match.change))) or None
    if node is None:
        status, candidates = "ambiguous" if match.candidates else "unmatched", match.candidates or match.nearest
        return "species list", match.entry.text, None, None, status, change, candidates, None
    name = taxonomy.scientific_name(node)
    status = "no photographs" if match.added else "same" if name == match.entry.text else "changed"
    taxon = taxonomy.taxon_id(node)
    return "species list", match.entry.text, name, taxon, status, change, match.resembles, None


def _write_attribution(database: sqlite3.Connection, paths: Sequence[taxonomy.Path], path: Path) -> None:
    rows = database.execute(f"SELECT key, locator, taxon, licence, attribution {_KEPT} ORDER BY key")
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("key", "file", "taxon", "licence", "attribution"))
        for key, locator, taxon, licence, attribution in rows:
            name = "" if taxon is None else taxonomy.scientific_name(paths[taxon])
            table.writerow((key, *map(guarded, (locator, name, licence or "", attribution or ""))))


def _sheet_rows(
    database: sqlite3.Connection, paths: Sequence[taxonomy.Path], taxa: pa.Table
) -> list[tuple[taxonomy.Path, str | None, list[str]]]:
    """Up to 40 leaves, neighbours in pairs so that relatives can be compared, with the locators of 8 photographs."""
    leaves = [row for row in taxa.to_pylist() if _shown(row)]
    if len(leaves) > SHEET_TAXA:
        pairs = SHEET_TAXA // 2
        starts = [2 * (i * (len(leaves) // 2) // pairs) for i in range(pairs)]
        leaves = [leaves[start + i] for start in starts for i in (0, 1)]
    shown = [tuple(leaf[rank] for rank in taxonomy.RANKS) for leaf in leaves]
    numbers = {path: number for number, path in enumerate(paths) if path in set(shown)}
    database.execute("CREATE INDEX of_taxon ON photograph (taxon)")
    rows = []
    for leaf, path in zip(leaves, shown, strict=True):
        found = database.execute("SELECT key, locator FROM photograph WHERE taxon = ? AND NOT gone", (numbers[path],))
        chosen = heapq.nsmallest(SHEET_IMAGES, found, key=lambda row: digest("contact sheet", row[0]))
        rows.append((path, leaf["common_name"], [locator for _, locator in chosen]))
    return rows


def _shown(taxon: dict[str, Any]) -> bool:
    """Whether a taxon of taxa.parquet is a leaf with photographs."""
    return bool(taxon["leaf"]) and any(taxon[split] for split in LABELLED)


def _facts(
    database: sqlite3.Connection,
    labels: Labels,
    taxa: pa.Table,
    resolved: list[tuple[Any, ...]],
    listed: list_summary.Summary | None,
    seen: dict[str, tuple[int, int, int]],
) -> page.Facts:
    paths = labels.paths

    def counted(query: str) -> dict[str, int]:
        return dict(database.execute(query).fetchall())

    rejects = counted("SELECT reason, count(*) FROM reject GROUP BY reason ORDER BY count(*) DESC, reason")
    examples = {
        reason: database.execute(
            "SELECT locator, detail FROM reject WHERE reason = ? ORDER BY locator LIMIT ?",
            (reason, page.EXAMPLES),
        ).fetchall()
        for reason in rejects
    }
    pairs = database.execute(
        "SELECT a.locator, a.taxon, b.locator, b.taxon FROM photograph a JOIN photograph b ON b.key = a.looks_like "
        "WHERE NOT a.gone AND NOT b.gone AND a.key <> b.key AND a.taxon NOT NULL AND b.taxon NOT NULL "
        "ORDER BY a.taxon = b.taxon, b.key, a.key LIMIT ?",
        (page.PAIRS,),
    ).fetchall()
    twins = "SELECT count(*), count(DISTINCT looks_like) FROM photograph WHERE looks_like IS NOT NULL AND NOT gone"
    alike, sets = database.execute(twins).fetchone()
    odd = database.execute(
        "SELECT count(*) FROM photograph a JOIN photograph b ON b.key = a.looks_like "
        "WHERE NOT a.gone AND NOT b.gone AND a.taxon <> b.taxon"
    ).fetchone()[0]
    return page.Facts(
        splits=counted(f"SELECT dealt.split, count(*) {_KEPT} GROUP BY 1"),
        observations=database.execute(f"SELECT count(DISTINCT joined) {_KEPT}").fetchone()[0],
        unlabelled=database.execute("SELECT count(*) FROM reject WHERE detail = ?", (WITHOUT_LABEL,)).fetchone()[0],
        truncated=counted(f"SELECT 'all', coalesce(sum(truncated), 0) {_KEPT}")["all"],
        taxa=taxa,
        rejects=rejects,
        examples=examples,
        look_alikes=(alike, sets, odd),
        pairs=[(a, taxonomy.scientific_name(paths[i]), b, taxonomy.scientific_name(paths[j])) for a, i, b, j in pairs],
        licences=counted(f"SELECT coalesce(licence, ''), count(*) {_KEPT} GROUP BY 1 ORDER BY 2 DESC, 1"),
        names=resolved,
        listed=listed,
        taxonomy=labels.settled,
        teacher_saw=seen,
    )
