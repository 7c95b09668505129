"""Measure how long stage index takes to settle names by a large taxonomy, and how much memory.

    python benchmarks/taxonomy.py [--rows 10000000] [--labels 10000 450000] [--forms simple archive] [--duckdb PYTHON]

Writes benchmarks/taxonomy.md. The taxonomy is made up, in two forms of GBIF's backbone: the simple file, packed with
gzip, and the table Taxon.tsv. Of its rows 4 % are genera and 42 % synonyms; of the labels 85 % are accepted names, 10 %
synonyms, 3 % misspelt and 2 % not in it. Each measurement is a process of its own. DuckDB (PYTHON: one that has it
installed) reads the same table and keeps the same rows.
"""

import argparse
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "workflow")]
OUTPUT = Path(__file__).with_suffix(".md")
CORES = len(os.sched_getaffinity(0))

from bioclip_lite.indexing.taxonomies import settle  # noqa: E402
from bioclip_lite.indexing.taxonomies.lookup import Query, find_all  # noqa: E402
from bioclip_lite.taxa import taxonomy  # noqa: E402
from bioclip_lite.utils.files import replacing  # noqa: E402

SYLLABLES = [f"{a}{b}{c}" for a in "bcdfglmnprstv" for b in "aeiou" for c in ("", "n", "r", "s")][:256]
ABOVE = (("kingdom", 2), ("phylum", 20), ("class", 200), ("order", 2000), ("family", 20_000))
OF_GENUS = 24  # rows of species
DUCKDB = """
import duckdb, json, resource, sys, time
file, genera = sys.argv[1], json.loads(open(sys.argv[2]).read())
begun = time.perf_counter()
table = duckdb.connect()
table.execute("SET memory_limit = '1GB'; SET temp_directory = '" + file + ".tmp'")
table.execute("CREATE TABLE wanted AS SELECT unnest(?) AS first", [genera])
table.execute(
    "CREATE TABLE kept AS SELECT taxonID, parentNameUsageID, acceptedNameUsageID, taxonomicStatus, taxonRank, "
    "scientificName, split_part(scientificName, ' ', 1) AS first FROM read_csv(?, delim='\\t', quote='', escape='', "
    "header=true, all_varchar=true) WHERE taxonRank <> 'species' OR split_part(scientificName, ' ', 1) IN "
    "(SELECT first FROM wanted)", [file])
table.execute(
    "INSERT INTO kept SELECT taxonID, parentNameUsageID, acceptedNameUsageID, taxonomicStatus, taxonRank, "
    "scientificName, split_part(scientificName, ' ', 1) FROM read_csv(?, delim='\\t', quote='', escape='', "
    "header=true, all_varchar=true) WHERE taxonID IN (SELECT acceptedNameUsageID FROM kept)", [file])
usage = resource.getrusage(resource.RUSAGE_SELF)
wall = time.perf_counter() - begun
print(json.dumps([wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, nargs="*", default=[10_000, 450_000])
    parser.add_argument("--forms", nargs="*", default=["simple", "archive"])
    parser.add_argument("--duckdb", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*map(Path, options.measure))))
        return 0
    lines = []
    with tempfile.TemporaryDirectory(prefix="taxonomy-") as scratch:
        for form in options.forms:
            file = write_taxonomy(Path(scratch), form, options.rows)
            for number in options.labels:
                asked = write_labels(Path(scratch, "labels.json"), options.rows, number)
                lines.append(
                    row(f"{file.name}, {file.stat().st_size / 1e6:,.0f} MB", number, in_a_process(file, asked))
                )
                if options.duckdb and form == "archive":
                    lines.append(
                        row(
                            "DuckDB reads Taxon.tsv, and keeps the same rows",
                            number,
                            duckdb(options.duckdb, file, asked),
                        )
                    )
                write(options.rows, lines)
            file.unlink()
    return 0


def row(what: str, labels: int, figures: list[float]) -> str:
    return f"| {what} | {labels:,} | {figures[0]:.0f} | {figures[1]:.0f} | {figures[2]:,.0f} |"


def write(rows: int, lines: Iterable[str]) -> None:
    text = [
        "# Names by a large taxonomy",
        "",
        f"`python benchmarks/taxonomy.py`: a made-up taxonomy of {rows:,} rows, {CORES} cores; seconds, and the",
        "highest resident memory of the process, MB.",
        "",
        "| taxonomy | labels | wall | processor | memory |",
        "|---|---|---|---|---|",
        *lines,
    ]
    with replacing(OUTPUT) as scratch:
        scratch.write_text("\n".join([*text, ""]))


# ------------------------------------------------------------------------------------------------------------- made up


def word(number: int) -> str:
    """A word of four syllables; words of different numbers differ in several letters, as a rule."""
    mixed = (number + 1) * 2654435761 % (1 << 32)
    return "".join(SYLLABLES[mixed // 256**place % 256] for place in range(4))


def genus(species: int, rows: int) -> str:
    return word(10**8 + species // OF_GENUS % (rows // OF_GENUS)).capitalize()


def name(species: int, rows: int) -> str:
    return f"{genus(species, rows)} {word(species)}"


def usages(rows: int) -> Iterator[tuple[int, int, int | None, str, str]]:
    """(id, parent, id of the accepted name, rank, name) of each row; synonyms and accepted names are mixed."""
    first, above = 1, [0]
    for rank, size in (*ABOVE, ("genus", rows // OF_GENUS)):
        for i in range(size):
            called = genus(i * OF_GENUS, rows) if rank == "genus" else word(first + i).capitalize()
            yield first + i, above[i % len(above)], None, rank, called
        above, first = list(range(first, first + size)), first + size
    for i in range(rows - first + 1):
        accepted = first + i * 7919 % (rows - first) // 2 * 2 if is_synonym(i) else None
        yield first + i, above[i // OF_GENUS % len(above)], accepted, "species", name(i, rows)


def is_synonym(species: int) -> bool:
    return species % 2 == 1 and species % OF_GENUS > 3


def write_taxonomy(folder: Path, form: str, rows: int) -> Path:
    if form == "simple":
        file = folder / "simple.txt.gz"
        with gzip.open(file, "wt", compresslevel=4, encoding="utf-8") as text:
            for i, parent, accepted, rank, called in usages(rows):
                text.write(
                    f"{i}\t{accepted or parent}\t\\N\t{'t' if accepted else 'f'}\t"
                    f"{'SYNONYM' if accepted else 'ACCEPTED'}\t{rank.upper()}\t{{}}\t"
                    f"d7dddbf4-2cf0-4f39-9b2a-bb099caae36c\tSOURCE\t{i}\t1\t3\t23\t234\t2345\t23456\t\\N\t"
                    f"{i}\t{called} Linnaeus, 1758\t{called}\t\\N"
                    "\t\\N\t\\N\t\\N\tLinnaeus\t1758\t\\N\t\\N\tSyst. Nat. ed. 10\t{}\n"
                )
        return file
    file = folder / "Taxon.tsv"
    with file.open("w", encoding="utf-8") as text:
        text.write(
            "taxonID\tdatasetID\tparentNameUsageID\tacceptedNameUsageID\tscientificName\tscientificNameAuthorship\t"
            "canonicalName\ttaxonRank\tnamePublishedIn\ttaxonomicStatus\n"
        )
        for i, parent, accepted, rank, called in usages(rows):
            text.write(
                f"{i}\td7dddbf4-2cf0-4f39-9b2a-bb099caae36c\t{parent}\t{accepted or ''}\t{called} Linnaeus, 1758\t"
                f"Linnaeus, 1758\t{called}\t{rank}\tSyst. Nat. ed. 10\t{'synonym' if accepted else 'accepted'}\n"
            )
    return file


def write_labels(file: Path, rows: int, number: int) -> Path:
    """Names of species: accepted, synonyms, misspelt by a letter, and some that the taxonomy lacks."""
    rng = random.Random(number)
    names: list[str] = []
    while len(names) < number:
        species, share = rng.randrange(rows - rows // 10), rng.random()
        if is_synonym(species) != (0.85 <= share < 0.95):
            continue
        called = name(species, rows)
        if 0.95 <= share < 0.98:
            called = called[:-2] + called[-1]
        names.append(called if share < 0.98 else f"{called.partition(' ')[0]} {word(10**9 + species)}")
    file.write_text(json.dumps(names))
    return file


# ------------------------------------------------------------------------------------------------------------ measuring


def in_a_process(file: Path, asked: Path) -> list[float]:
    return printed([sys.executable, __file__, "--measure", str(file), str(asked)])


def duckdb(python: Path, file: Path, asked: Path) -> list[float]:
    genera = sorted({name.partition(" ")[0] for name in json.loads(asked.read_text())})
    wanted = asked.with_name("genera.json")
    wanted.write_text(json.dumps(genera))
    return printed([str(python), "-c", DUCKDB, str(file), str(wanted)])


def printed(command: list[str]) -> list[float]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def measure(file: Path, asked: Path) -> list[float]:
    """Wall and processor seconds, and MB, of settling names as stage index does."""
    names = json.loads(asked.read_text())
    begun = time.perf_counter()
    queries = [Query(taxonomy.make_path({"species": name})) for name in names]
    with settle.opened(file, [query.path for query in queries]) as book:
        found = find_all(book.find, queries)
    wall, usage = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    print(Counter(one.how for one in found.values()), file=sys.stderr)
    return [wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]


if __name__ == "__main__":
    sys.exit(main())
