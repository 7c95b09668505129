"""Compare readers of tables and of Darwin Core archives: ``python benchmarks/readers.py``, which writes readers.md.

Needs ``pip install clevercsv duckdb python-dwca-reader pandas`` beside the main environment. The first two tables say
which inputs each reader reads rightly, or refuses where the input is broken; the third, processor seconds and the
largest memory for a million rows, each in a process of its own.
"""

import argparse
import csv
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bioclip_lite.sources import archive, darwincore, delimited, rows

try:
    import clevercsv
    import duckdb
    import pandas
    from dwca.read import DwCAReader
except ImportError as error:  # they are not among the locked packages
    MISSING: ImportError | None = error
else:
    MISSING = None

OUTPUT = Path(__file__).with_suffix(".md")
HEADER = ["file", "genus", "species", "note"]
BODY = [[f"{i}.jpg", "Morus", name, "Müller"] for i, name in enumerate(("alba", "nigra", "rubra", "bassanus"))]
Rows = list[list[str]]


def text(body: Rows = BODY, separator: str = ",", end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in [HEADER, *body])


OPEN = text([*BODY[:2], ["2.jpg", '"Morus', "rubra", "x"], *BODY[3:]])
QUOTED = [["a, b.jpg", "Morus", "alba", 'said "x"'], ["c.jpg", "Morus", "nigra", "two\nlines"]]
TABLES: dict[str, tuple[bytes, Rows | None]] = {  # content, and what is right; None: to refuse it
    "commas": (text().encode(), BODY),
    "semicolons": (text(separator=";").encode(), BODY),
    "tabs": (text(separator="\t").encode(), BODY),
    "bars": (text(separator="|").encode(), BODY),
    "semicolons, decimal commas": (
        text([[*r[:3], "1,5"] for r in BODY], ";").encode(),
        [[*r[:3], "1,5"] for r in BODY],
    ),
    "Excel's sep=;": (b"sep=;\r\n" + text(separator=";", end="\r\n").encode(), BODY),
    "UTF-8 with a mark": (text().encode("utf-8-sig"), BODY),
    "UTF-16, as Excel's Unicode text": (text(separator="\t", end="\r\n").encode("utf-16"), BODY),
    "UTF-16 without a mark": (text(separator="\t").encode("utf-16-le"), BODY),
    "lines of old Macs": (text(end="\r").encode(), BODY),
    "quoted separators, marks and lines": (
        "".join(
            ",".join(f'"{v.replace(chr(34), chr(34) * 2)}"' for v in row) + "\n" for row in [HEADER, *QUOTED]
        ).encode(),
        QUOTED,
    ),
    "inches and marks inside of text": (
        text([[*r[:3], '3" wide'] for r in BODY]).encode(),
        [[*r[:3], '3" wide'] for r in BODY],
    ),
    "numbers that begin with 0": (text([[*r[:3], "007"] for r in BODY]).encode(), [[*r[:3], "007"] for r in BODY]),
    "one row": (text(BODY[:1]).encode(), BODY[:1]),
    "a mark that stays open": (OPEN.encode(), None),
    "Latin-1": (text().encode("latin-1"), None),
    "a workbook": (b"PK\x03\x04" + bytes(range(256)) * 4, None),
}


def own(path: Path) -> Rows:
    return [values for _, values in delimited.rows(path)][1:]


def by_clevercsv(path: Path) -> Rows:
    return [list(row) for row in clevercsv.read_table(str(path))][1:]


def by_duckdb(path: Path) -> Rows:
    found = duckdb.connect().execute(f"FROM read_csv('{path}', all_varchar = true, header = true)").fetchall()
    return [["" if value is None else value for value in row] for row in found]


def by_pandas(path: Path) -> Rows:
    table = pandas.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    return [list(row) for row in table.itertuples(index=False)]


READERS: dict[str, Callable[[Path], Rows]] = {
    "our own": own,
    "clevercsv": by_clevercsv,
    "duckdb": by_duckdb,
    "pandas": by_pandas,
}

# ---- Darwin Core

DWC = "http://rs.tdwg.org/dwc/terms/"
TERMS = ("gbifID", "genus", "specificEpithet", "recordedBy")
RECORDS = [[str(i), "Morus", name, "Müller"] for i, name in enumerate(("alba", "nigra", "rubra"))]
META = (
    '<archive xmlns="http://rs.tdwg.org/dwc/text/"><core encoding="UTF-8" fieldsTerminatedBy="\\t" '
    f'linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1" rowType="{DWC}Occurrence">'
    '<files><location>occurrence.txt</location></files><id index="0"/>'
    + "".join(f'<field index="{i}" term="{DWC}{term}"/>' for i, term in enumerate(TERMS))
    + "</core></archive>"
)


def lines(records: Rows = RECORDS, separator: str = "\t", end: str = "\n") -> bytes:
    return "".join(separator.join(row) + end for row in [list(TERMS), *records]).encode()


ARCHIVES: dict[str, tuple[str, bytes]] = {
    "as GBIF writes it": (META, lines()),
    "separator written \\\\t": (META.replace("\\t", "\\\\t"), lines()),
    "separator left out": (META.replace('fieldsTerminatedBy="\\t"', ""), lines()),
    "header not counted": (META.replace('ignoreHeaderLines="1"', ""), lines()),
    "lines of Windows stated, of Unix written": (META.replace("\\n", "\\r\\n"), lines()),
    "UTF-8 stated as windows-1252": (META.replace("UTF-8", "windows-1252"), lines()),
    "UTF-16 with a mark": (META, lines().decode().encode("utf-16")),
    "a mark before the header": (META, b"\xef\xbb\xbf" + lines()),
    "a mark before meta.xml": ("\ufeff" + META, lines()),
    "values for all rows": (META.replace("</core>", f'<field term="{DWC}country" default="DE"/></core>'), lines()),
    "quotation marks in names": (META, lines([[*RECORDS[0][:3], 'A "B'], *RECORDS[1:]])),
}


def archive_of(folder: Path, meta: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / "meta.xml").write_text(meta, encoding="utf-8")
    (folder / "occurrence.txt").write_bytes(content)
    return folder


def own_archive(path: Path) -> Rows:
    terms = [term.lower() for term in TERMS]
    with archive.opened(path) as (open_file, names):
        core, _ = archive.described(str(path), open_file, names, terms)
        return [[str(row.get(term)) for term in terms] for _, row in archive.rows(open_file, core)]


def by_dwca_reader(path: Path) -> Rows:
    with DwCAReader(str(path)) as reader:
        return [[row.data[DWC + term] for term in TERMS] for row in reader]


ARCHIVE_READERS: dict[str, Callable[[Path], Rows]] = {"our own": own_archive, "python-dwca-reader": by_dwca_reader}


def judged(read: Callable[[Path], Rows], path: Path, right: Rows | None) -> str:
    try:
        found = read(path)
    except Exception as error:  # each reader has its own
        return "refused" if right is None else f"no ({type(error).__name__})"
    return "yes" if found == right else "no, silently"


# ---- a million rows


def large_table(path: Path, number: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HEADER, "kingdom", "family", "licence", "source"])
        writer.writerows(
            [f"photos/{i}.jpg", "Morus", f"epithet{i % 5000}", "", "Plantae", "Moraceae", "cc-by", "Ann"]
            for i in range(number)
        )


def large_archive(folder: Path, number: int) -> Path:
    media = ("gbifID", "type", "identifier")
    extension = (
        '<extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" '
        'ignoreHeaderLines="1" rowType="http://rs.gbif.org/terms/1.0/Multimedia"><files><location>multimedia.txt</location>'
        '</files><coreid index="0"/><field index="1" term="http://purl.org/dc/terms/type"/>'
        '<field index="2" term="http://purl.org/dc/terms/identifier"/></extension></archive>'
    )
    archive_of(folder, META.replace("</archive>", extension), b"")
    with (folder / "occurrence.txt").open("w") as core, (folder / "multimedia.txt").open("w") as other:
        core.write("\t".join(TERMS) + "\n")
        other.write("\t".join(media) + "\n")
        for i in range(number):
            core.write(f"{i}\tMorus\tepithet{i % 5000}\tA. Recorder\n")
            other.write(f"{i}\tStillImage\thttps://example.org/{i}.jpg\n")
    return folder


def count(items: Iterator[Any]) -> int:
    return sum(1 for _ in items)


def duckdb_batches(query: str) -> int:
    found = duckdb.connect().execute(query)
    number = 0
    while batch := found.fetchmany(10_000):
        number += len(batch)
    return number


def joined_by_dwca_reader(path: Path) -> int:
    with DwCAReader(str(path)) as reader:
        return sum(len(row.extensions) for row in reader)


def joined_by_duckdb(path: Path) -> int:
    read = "read_csv('{}/{}', delim = '\t', quote = '', all_varchar = true)"
    core, media = read.format(path, "occurrence.txt"), read.format(path, "multimedia.txt")
    return duckdb_batches(f"FROM {core} AS core JOIN {media} AS media USING (gbifID)")


LARGE: dict[str, dict[str, Callable[[Path], int]]] = {
    "table": {
        "our own": lambda path: count(delimited.rows(path)) - 1,
        "our own, to photographs": lambda path: count(rows.photographs(path)),
        "clevercsv": lambda path: count(clevercsv.stream_table(str(path))) - 1,
        "duckdb": lambda path: duckdb_batches(f"FROM read_csv('{path}', all_varchar = true)"),
        "pandas, in parts": lambda path: sum(len(part) for part in pandas.read_csv(path, dtype=str, chunksize=10_000)),
    },
    "archive": {
        "our own, to photographs": lambda path: count(darwincore.samples({"path": str(path)})),  # type: ignore[typeddict-item]
        "python-dwca-reader": joined_by_dwca_reader,
        "duckdb": joined_by_duckdb,
    },
}


def measure(kind: str, name: str, path: Path) -> tuple[int, float, float]:
    """Rows found, processor seconds, and MB by which the process grew at most."""
    before, start = memory("VmRSS"), time.process_time()
    number = LARGE[kind][name](path)
    return number, time.process_time() - start, memory("VmHWM") - before


def memory(what: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    lines_of = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines_of if line.startswith(what))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    number = parser.parse_args().rows
    if MISSING:
        parser.exit(1, f"{MISSING}: pip install clevercsv duckdb python-dwca-reader pandas\n")
    out = [
        "# Readers of tables and of Darwin Core archives",
        "",
        f"`python benchmarks/readers.py --rows {number}`: clevercsv {clevercsv.__version__}, duckdb "
        f"{duckdb.__version__}, pandas {pandas.__version__}, python-dwca-reader 0.17.1; {processor()}. "
        "yes: the rows are right; refused: the input is broken, and an error says so; no, silently: other rows. "
        "Our own reader was made for these inputs.",
        "",
        f"| table | {' | '.join(READERS)} |",
        f"|---|{'---|' * len(READERS)}",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, (content, right) in TABLES.items():
            path = folder / "table.csv"
            path.write_bytes(content)
            out.append(f"| {name} | {' | '.join(judged(read, path, right) for read in READERS.values())} |")
        out += ["", f"| archive | {' | '.join(ARCHIVE_READERS)} |", f"|---|{'---|' * len(ARCHIVE_READERS)}"]
        for i, (name, (meta, content)) in enumerate(ARCHIVES.items()):
            right = [[*RECORDS[0][:3], 'A "B'], *RECORDS[1:]] if "quotation" in name else RECORDS
            path = archive_of(folder / str(i), meta, content)
            found = (judged(read, path, right) for read in ARCHIVE_READERS.values())
            out.append(f"| {name} | {' | '.join(found)} |")
        out += ["", f"| {number:,} rows | reader | rows found | processor seconds | MB more |", "|---|---|---|---|---|"]
        large_table(folder / "large.csv", number)
        paths = {"table": folder / "large.csv", "archive": large_archive(folder / "large", number)}
        for kind, readers in LARGE.items():
            for name in readers:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    found_rows, seconds, more = pool.submit(measure, kind, name, paths[kind]).result()
                out.append(f"| {kind} | {name} | {found_rows:,} | {seconds:.1f} | {more:,.0f} |")
                print(out[-1], flush=True)
    OUTPUT.write_text("\n".join(out) + "\n", encoding="utf-8")


def processor() -> str:
    with Path("/proc/cpuinfo").open() as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "?")
    return f"{model}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
