"""Small data sets in exactly the form in which the large ones lie on disk, quirks included, and a web server."""

import csv
import hashlib
import io
import json
import re
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import webdataset

from bioclip_lite.params.jobs import Texts
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import SPLITS, Reject, Sample
from bioclip_lite.utils import sections
from bioclip_lite.utils.files import read_table
from support.photographs import DAISY, GANNET, MULBERRY, encoded, folder_params, picture

TAXA = {"Common Daisy": DAISY, "White Mulberry": MULBERRY, "Northern Gannet": GANNET}
UUID = "{:08x}-6d97-47c3-bcda-c72cdf19a1bf".format


def source_params(name: str, path: Path, **more: Any) -> Any:
    return folder_params(path, source=name, **more)


def listed(params: Any) -> tuple[list[Sample], list[Reject]]:
    """What a source lists; twice the same, and with keys that are distinct and well-formed."""
    source = find_source(params["source"])
    items = list(source.samples(params))
    assert items == list(source.samples(params))
    samples = [item for item in items if isinstance(item, Sample)]
    assert len({s.key for s in samples}) == len(samples)
    assert all(re.fullmatch("[0-9a-z_-]+", s.key) for s in samples)
    return samples, [item for item in items if isinstance(item, Reject)]


def to_captions(params: sections.Index, data: Path, languages: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Run index, shard and caption; returns the rows of samples.parquet with their captions."""
    from bioclip_lite.stages import caption, index, shard

    index.run(params, data)
    samples = read_table(data / "index" / "samples.parquet").to_pylist()
    found = Counter(sample["split"] for sample in samples)
    shard.run({"counts": {split: min(found[split], 1) for split in SPLITS}, "max_side": None}, data)
    columns: list[sections.Column] = ["common_name", "class", "order", "family", "genus", "species"]
    texts: Texts = {"lit_columns": columns, "templates": {}, "languages": [*languages]}
    caption.run({**texts, "captioners": [], "seed": 0}, data)
    said = {row["key"]: row for path in (data / "caption").glob("*.parquet") for row in read_table(path).to_pylist()}
    assert set(said) == {sample["key"] for sample in samples}
    return [{**sample, **said[sample["key"]]} for sample in samples]


def rejects(data: Path) -> dict[str, str]:
    return {row["locator"]: row["reason"] for row in read_table(data / "index" / "rejects.parquet").to_pylist()}


def photo(*names: object) -> bytes:
    return encoded(picture(*names))


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ------------------------------------------------------------------------------------------------------------- inat2021

INAT_LICENCES = [
    {"id": 0, "name": "Public Domain Dedication", "url": "http://creativecommons.org/publicdomain/zero/1.0/"},
    {"id": 1, "name": "Attribution-NonCommercial License", "url": "http://creativecommons.org/licenses/by-nc/4.0/"},
    {"id": 2, "name": "No known copyright restrictions", "url": "http://flickr.com/commons/usage/"},
]


def inat_category(number: int, path: tuple[str | None, ...], common_name: str) -> dict[str, Any]:
    names = dict(zip(("kingdom", "phylum", "class", "order", "family", "genus"), path, strict=False))
    return {
        **{"id": number, "name": f"{path[5]} {path[6]}", "common_name": common_name, "supercategory": "Plants"},
        **names,
        "specific_epithet": path[6],
        "image_dir_name": "_".join([f"{number:05d}", *map(str, path)]),
    }


INAT_CATEGORIES = [inat_category(i, path, name) for i, (name, path) in enumerate(TAXA.items())]


def inat_image(number: int, part: str, category: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        **{"id": number, "width": 40, "height": 32, "license": 1, "rights_holder": f"observer {number}"},
        "file_name": f"{part}/{category['image_dir_name']}/{UUID(number)}.jpg",
        **{"date": f"2019-05-{number % 28 + 1:02d} 11:04:00+00:00", "latitude": 43.8, "longitude": 10.5},
        "location_uncertainty": None,
        **more,
    }


def inat_part(
    root: Path,
    part: str,
    each: int,
    first: int = 0,
    with_json: bool = True,
    more: dict[int, dict[str, Any]] | None = None,
) -> None:
    """``each`` photographs per species in ``root/part``, and ``part.json`` with ids from ``first``."""
    images, annotations = [], []
    for i in range(each * len(INAT_CATEGORIES)):
        category, number = INAT_CATEGORIES[i % len(INAT_CATEGORIES)], first + i
        image = inat_image(number, part, category, **(more or {}).get(number, {}))
        images.append(image)
        annotations.append({"id": number, "image_id": number, "category_id": category["id"]})
        put(root / image["file_name"], photo("inat", number))
    if with_json:
        inat_json(root / f"{part}.json", images, INAT_CATEGORIES, annotations)


def inat_json(file: Path, images: list[Any], categories: list[Any], annotations: list[Any]) -> None:
    put(
        file,
        json.dumps(
            {
                "info": {"year": 2021, "version": "1.0"},
                **{"images": images, "categories": categories, "annotations": annotations, "licenses": INAT_LICENCES},
            }
        ),
    )


# ------------------------------------------------------------------------------------------------- TreeOfLife, BioTrove


def bioclip_texts(path: tuple[str | None, ...], common_name: str | None) -> dict[str, str]:
    """The ten texts of TreeOfLife-10M, with its fallbacks for a common name."""
    ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
    tagged = " ".join(f"{rank} {name}" for rank, name in zip(ranks, path, strict=True) if name)
    taxon = " ".join(name for name in path if name)
    scientific = " ".join(name for name in path[5:] if name)
    common = common_name or scientific or taxon
    return {
        **{"scientific_name.txt": scientific, "taxonomic_name.txt": taxon, "common_name.txt": common},
        **{"sci.txt": f"a photo of {scientific}.", "com.txt": f"a photo of {common}."},
        **{"taxon.txt": f"a photo of {taxon}.", "taxonTag.txt": f"a photo of {tagged}."},
        "sci_com.txt": f"a photo of {scientific} with common name {common}.",
        "taxon_com.txt": f"a photo of {taxon} with common name {common}.",
        "taxonTag_com.txt": f"a photo of {tagged} with common name {common}.",
    }


def webdataset_tar(file: Path, samples: list[dict[str, Any]]) -> Path:
    """A tar by the library that the data sets are written with."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(file), encoder=False) as tar:
        for sample in samples:
            tar.write({k: v.encode() if isinstance(v, str) and k != "__key__" else v for k, v in sample.items()})
    return file


CATALOGUE_10M = (
    *("split", "treeoflife_id", "eol_content_id", "eol_page_id", "bioscan_part", "bioscan_filename", "inat21_filename"),
    *("inat21_cls_name", "inat21_cls_num", "kingdom", "phylum", "class", "order", "family", "genus", "species"),
    "common",
)
LICENCES_10M = (
    *("treeoflife_id", "eol_content_id", "eol_page_id", "md5", "medium_source_url", "eol_full_size_copy_url"),
    *("license_name", "copyright_owner", "license_link", "title"),
)


def gzipped_tar(file: Path, members: dict[str, bytes]) -> Path:
    """A .tar.gz as GNU tar packs a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(content), 1_700_000_000, "someone"
            tar.addfile(member, io.BytesIO(content))
    return file


def treeoflife_10m(root: Path, each: int = 4) -> list[dict[str, Any]]:
    """TreeOfLife-10M as the hub, BIOSCAN-1M and iNat21 publish it; returns the rows of the catalogue.

    ``each`` photographs of every taxon in each of the three; one EOL photograph a taxon is in val, and the first of
    train is in train_small too.
    """
    listed, licences = [], []
    image_sets: list[dict[str, bytes]] = [{}, {}]
    for i, (common, path) in enumerate(sorted(TAXA.items())):
        for j in range(each):
            number, names = 100 * i + j, dict(zip(CATALOGUE_10M[9:16], path, strict=True))
            content, split = photo("eol", number), "val" if j == each - 1 else "train"
            image_sets[j % 2][f"{UUID(number)}.jpg"] = content
            ids = {"treeoflife_id": UUID(number), "eol_content_id": f"{9000 + number}.0", "eol_page_id": f"{50 + i}.0"}
            listed.append({"split": split, **ids, **names, "common": common})
            if j == 0:
                listed.append({**listed[-1], "split": "train_small"})
            owner = {"license_name": "cc-by", "copyright_owner": "Ann", "title": "not provided"}
            licences.append({**ids, "md5": hashlib.md5(content).hexdigest(), **owner})

            part, file = 1 + j % 2, f"{4_000_000 + number}.jpg"
            put(root / f"dataset/bioscan/part{part}/{file}", photo("bioscan", number))
            more = {"bioscan_part": f"{part}.0", "bioscan_filename": file, "treeoflife_id": UUID(10_000 + number)}
            listed.append({"split": "train", **more, **names, "common": f"{path[5]} {path[6]}"})

            folder, file = f"{i:05d}_{'_'.join(map(str, path))}", f"{UUID(20_000 + number)}.jpg"
            put(root / f"dataset/inat21/train/{folder}/{file}", photo("inat21", number))
            more = {"inat21_filename": file, "inat21_cls_name": folder[6:], "inat21_cls_num": f"{i}.0"}
            listed.append({"split": "train", "treeoflife_id": UUID(30_000 + number), **more, **names, "common": common})
    for number, image_set in enumerate(image_sets, 1):
        gzipped_tar(root / f"dataset/EOL/image_set_{number:02d}.tar.gz", image_set)
    put(root / "visuals" / "phyla_ToL_tree.png", photo("a figure"))
    for name, columns, found in (("catalog", CATALOGUE_10M, listed), ("licenses", LICENCES_10M, licences)):
        cells = ([row.get(column, "") for column in columns] for row in found)
        write_csv(root / "metadata" / f"{name}.csv", list(columns), cells)
    return listed


def biotrove_tar(folder: Path, chunk: str, photos: dict[int, tuple[bytes, dict[str, Any]]]) -> Path:
    """<chunk>.tar as the data set's tool makes it: bare names with a full stop, gaps as they come."""
    for number, (content, row) in photos.items():
        put(folder / "parts" / chunk / f"{number}.jpg", content)
        taxon = " ".join(
            str(row[rank]) for rank in ("kingdom", "phylum", "class", "order", "family", "genus", "species")
        )
        ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
        tagged = " ".join(f"{rank} {row[rank]}" for rank in ranks)
        texts = {
            **{"com.txt": f"a photo of {row['common_name']}.", "common_name.txt": f"{row['common_name']}."},
            **{"sci.txt": f"a photo of {row['scientificName']}.", "scientific_name.txt": f"{row['scientificName']}."},
            **{"taxon.txt": f"a photo of {taxon}.", "taxonomic_name.txt": f"{taxon}."},
            "taxonTag.txt": f"a photo of {tagged}.",
            "taxonTag_com.txt": f"a photo of {tagged} with common name {row['common_name']}.",
        }
        for ending, text in texts.items():
            put(folder / "parts" / chunk / f"{number}.{ending}", text)
        put(folder / "parts" / chunk / f"{number}.json", json.dumps({"photo_id": number, "taxonomic_name": taxon}))
    with tarfile.open(folder / f"{chunk}.tar", "w") as tar:
        tar.add(folder / "parts" / chunk, arcname=chunk)
    for file in sorted((folder / "parts").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (folder / "parts").rmdir()
    return folder / f"{chunk}.tar"


def biotrove_row(path: tuple[str | None, ...], common_name: str | None, missing: str = "") -> dict[str, Any]:
    names = [name or missing for name in path]
    ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
    scientific = " ".join(name for name in path[5:] if name) or missing
    return {**dict(zip(ranks, names, strict=True)), "scientificName": scientific, "common_name": common_name or missing}


# ---------------------------------------------------------------------------------------------------------- Darwin Core

DWC, DC, GBIF = "http://rs.tdwg.org/dwc/terms/", "http://purl.org/dc/terms/", "http://rs.gbif.org/terms/1.0/"
OCCURRENCE = (
    *(GBIF + "gbifID", DC + "license", DC + "rightsHolder", DWC + "occurrenceID", DWC + "recordedBy"),
    *(DWC + "scientificName", DWC + "taxonRank", DWC + "vernacularName"),
    *(DWC + rank for rank in ("kingdom", "phylum", "class", "order", "family", "genus")),
    *(DWC + "specificEpithet", GBIF + "species"),
)
MULTIMEDIA = (
    *(GBIF + "gbifID", DC + "type", DC + "format", DC + "identifier", DC + "creator"),
    *(DC + "license", DC + "rightsHolder"),
)
VERNACULAR = (GBIF + "gbifID", DWC + "vernacularName", DC + "language")


def occurrence(number: int, path: tuple[str | None, ...], **more: str) -> dict[str, str]:
    names = [name or "" for name in path]
    binomial = f"{names[5]} {names[6]}" if names[6] else ""
    row = dict(zip(("kingdom", "phylum", "class", "order", "family", "genus"), names, strict=False))
    return {
        **{"gbifID": str(number), "license": "CC_BY_4_0", "occurrenceID": f"urn:{number}", "recordedBy": "A. Recorder"},
        **{"scientificName": f"{binomial} L." if binomial else "", "taxonRank": "SPECIES", "species": binomial},
        **{"specificEpithet": names[6], **row, **more},
    }


def media(number: int, identifier: str, **more: str) -> dict[str, str]:
    return {"gbifID": str(number), "type": "StillImage", "format": "image/jpeg", "identifier": identifier, **more}


def described(tag: str, file: str, kind: str, terms: tuple[str, ...], constants: str = "", **how: str) -> str:
    dialect = {"fieldsTerminatedBy": "\\t", "linesTerminatedBy": "\\n", "fieldsEnclosedBy": "", **how}
    attributes = " ".join(f'{name}="{value}"' for name, value in {"encoding": "UTF-8", **dialect}.items())
    identity = "id" if tag == "core" else "coreid"
    fields = "".join(f'<field index="{i}" term="{term}"/>' for i, term in enumerate(terms))
    return (
        f'<{tag} {attributes} ignoreHeaderLines="1" rowType="{kind}"><files><location>{file}</location></files>'
        f'<{identity} index="0"/>{fields}{constants}</{tag}>'
    )


def tabbed(terms: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    names = [term.rsplit("/", 1)[-1] for term in terms]
    return "".join("\t".join(values) + "\n" for values in (names, *([row.get(n, "") for n in names] for row in rows)))


def archive(
    folder: Path,
    occurrences: list[dict[str, str]],
    multimedia: list[dict[str, str]],
    vernacular: list[dict[str, str]] | None = None,
) -> Path:
    """An unpacked archive as GBIF writes it: tabs, no quoting, the verbatim records as one extension more."""
    tables = [described("core", "occurrence.txt", DWC + "Occurrence", OCCURRENCE)]
    tables.append(described("extension", "verbatim.txt", DWC + "Occurrence", OCCURRENCE[:1]))
    tables.append(described("extension", "multimedia.txt", GBIF + "Multimedia", MULTIMEDIA))
    put(folder / "occurrence.txt", tabbed(OCCURRENCE, occurrences))
    put(folder / "verbatim.txt", tabbed(OCCURRENCE[:1], occurrences))
    put(folder / "multimedia.txt", tabbed(MULTIMEDIA, multimedia))
    if vernacular is not None:
        tables.append(described("extension", "vernacularname.txt", GBIF + "VernacularName", VERNACULAR))
        put(folder / "vernacularname.txt", tabbed(VERNACULAR, vernacular))
    put(folder / "meta.xml", meta_xml(tables))
    return folder


def meta_xml(tables: list[str]) -> str:
    return f'<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">{"".join(tables)}</archive>'


def zipped(folder: Path, file: Path) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return file


# ------------------------------------------------------------------------------------------------------------------ CSV


def write_csv(file: Path, columns: list[str], rows: Iterable[Iterable[object]], separator: str = ",") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as table:
        writer = csv.writer(table, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(rows)
    return file


# ------------------------------------------------------------------------------------------------------------------ web


class Web:
    """A web server on loopback. ``files`` by path; ``steps`` by path are played before the file is given.

    A step is a function of the request handler that answers, or returns True to let the file be given.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.steps: dict[str, list[Callable[[Any], object]]] = {}
        self.types: dict[str, str] = {}
        self.ranges = True
        self.delay = 0.0
        self.asked: list[tuple[str, dict[str, str], float]] = []  # path, headers, when
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()
        self.address = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def times(self, path: str) -> int:
        return sum(asked == path for asked, _, _ in self.asked)

    def headers(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers, _ in self.asked if asked == path]

    def answer(self, request: Any) -> None:
        path = request.path.lstrip("/")
        with self.lock:
            self.asked.append((path, {k.lower(): v for k, v in request.headers.items()}, time.monotonic()))
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            time.sleep(self.delay)
            steps = self.steps.get(path, [])
            if not steps or steps.pop(0)(request) is True:
                self._give(request, path)
        finally:
            with self.lock:
                self.busy -= 1

    def _give(self, request: Any, path: str) -> None:
        content = self.files.get(path)
        if content is None:
            send(request, 404, b"not here", {"Content-Type": "text/plain"})
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": self.types.get(path, "image/jpeg"), "ETag": tag}
        start = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if self.ranges and start and request.headers.get("If-Range", tag) == tag:
            first = int(start[1])
            if first >= len(content):
                send(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            send(request, 206, content[first:], headers)
        else:
            send(request, 200, content, headers)


def send(request: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def status(code: int, **headers: str) -> Callable[[Any], object]:
    return lambda request: send(request, code, b"trouble", {k.replace("_", "-"): v for k, v in headers.items()})


def cut(content: bytes, after: int) -> Callable[[Any], object]:
    """Say the whole length, send a part, and hang up."""

    def step(request: Any) -> None:
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        send(request, 200, content[:after], {"Content-Length": str(len(content)), "ETag": tag})
        request.close_connection = True

    return step


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
