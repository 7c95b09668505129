"""Files as people give them to us: of each kind a few good ones, what reads them, and bombs that are small to send."""

import gzip
import io
import json
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bioclip_lite import params
from bioclip_lite.photographs import images
from bioclip_lite.sources import darwincore, rows, tars
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import bundle, parent
from support.checkout import ROOT
from support.photographs import encoded, picture

MANY = 200_000_000  # bytes that a bomb becomes


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str
    good: Callable[[], list[bytes]]
    read: Callable[[Path, bytes], object]  # in an empty folder
    words: tuple[bytes, ...] = ()  # that mutations put in
    bombs: Callable[[], list[bytes]] = list
    most: int = 300_000_000  # bytes of memory that one may take


# Tables

_HEADER = "file,scientific_name,kingdom,phylum,class,order,family,genus,species,common_name,licence,observation\n"
_ROWS = "".join(
    f'a/{n}.jpg,Bellis perennis,Plantae,,,,Asteraceae,Bellis,perennis,"Daisy, common",CC-BY,{n // 2}\n'
    for n in range(8)
)


def _tables() -> list[bytes]:
    text = _HEADER + _ROWS
    tabs = text.replace(",", "\t").replace('"', "")
    return [text.encode(), tabs.encode(), text.replace(",", ";").encode("utf-16"), b"sep=,\r\n" + text.encode()]


def _read_table(folder: Path, content: bytes) -> None:
    (folder / "table.csv").write_bytes(content)
    for _ in rows.photographs(folder / "table.csv"):
        pass


def _parquets() -> list[bytes]:
    table = pa.table({"file": ["a.jpg", "b.jpg"], "species": ["x", None], "n": [1, 2], "d": [b"a", b"b"]})
    found = []
    for compression in ("none", "zstd"):
        file = io.BytesIO()
        pq.write_table(table, file, compression=compression)
        found.append(file.getvalue())
    return found


def _read_parquet(folder: Path, content: bytes) -> None:
    (folder / "table.parquet").write_bytes(content)
    for _ in rows.parquet_rows(folder / "table.parquet"):
        pass


def _parquet_bombs() -> list[bytes]:
    file = io.BytesIO()
    pq.write_table(pa.table({"file": pa.array([None] * 20_000_000, pa.string())}), file, compression="zstd")
    return [file.getvalue()]


# Darwin Core archives

_META = b"""<?xml version="1.0" encoding="UTF-8"?>
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
  <core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
    rowType="http://rs.tdwg.org/dwc/terms/Occurrence">
    <files><location>occurrence.txt</location></files>
    <id index="0"/>
    <field index="1" term="http://rs.tdwg.org/dwc/terms/scientificName"/>
    <field index="2" term="http://rs.tdwg.org/dwc/terms/family"/>
    <field default="Plantae" term="http://rs.tdwg.org/dwc/terms/kingdom"/>
  </core>
  <extension encoding="UTF-8" fieldsTerminatedBy="," linesTerminatedBy="\\r\\n" fieldsEnclosedBy="&quot;"
    ignoreHeaderLines="0" rowType="http://rs.gbif.org/terms/1.0/Multimedia">
    <files><location>multimedia.txt</location></files>
    <coreid index="0"/>
    <field index="1" term="http://purl.org/dc/terms/identifier"/>
    <field index="2" term="http://purl.org/dc/terms/type"/>
  </extension>
</archive>
"""
_CORE = "id\tscientificName\tfamily\n" + "".join(f"{n}\tBellis perennis L.\tAsteraceae\n" for n in range(6))
_MEDIA = "".join(f'{n},"https://a.org/{n}.jpg",StillImage\r\n' for n in range(6))
_ARCHIVE = {"meta.xml": _META, "occurrence.txt": _CORE.encode(), "multimedia.txt": _MEDIA.encode()}


def _zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def _archives() -> list[bytes]:
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [_zipped(_ARCHIVE, method) for method in methods]


def _list_archive(path: Path) -> None:
    origin: Any = {"source": "darwincore", "path": str(path)}
    for _ in darwincore.samples(origin):
        pass


def _read_archive(folder: Path, content: bytes) -> None:
    (folder / "archive.zip").write_bytes(content)
    _list_archive(folder / "archive.zip")


def _read_meta(folder: Path, content: bytes) -> None:
    for name, other in _ARCHIVE.items():
        (folder / name).write_bytes(content if name == "meta.xml" else other)
    _list_archive(folder)


def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{"".join([f"&l{n - 1};"] * 10)}">' for n in range(1, 10))
    head = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">{entities}]>'
    return head.encode() + _META.split(b"?>", 1)[1].replace(b"occurrence.txt", b"&l9;")


def _zip_bombs() -> list[bytes]:
    """A description, a core and an extension of one line each, larger than memory should hold."""
    long = {
        "meta.xml": _META.replace(b"<archive", b"<!--" + b" " * MANY + b"--><archive"),
        "occurrence.txt": _CORE.encode() + b"x" * MANY,
        "multimedia.txt": b'1,"' + b"x" * MANY,
    }
    return [_zipped(_ARCHIVE | {name: content}) for name, content in long.items()] + [
        _zipped(_ARCHIVE | {"meta.xml": _laughs()})
    ]


# Tars


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name in ("a", f"{'long/' * 30}b\N{LATIN SMALL LETTER E WITH ACUTE}"):
                for ending, content in (("jpg", _photograph()), ("txt", b"Bellis perennis"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        found.append(file.getvalue())
    return found


def _read_tar(folder: Path, content: bytes) -> None:
    (folder / "a.tar").write_bytes(content)
    for group in tars.groups(folder, "a.tar"):
        if isinstance(group, tars.Group) and group.extension:
            tars.content(folder, group, group.extension)


def _gzipped_tars() -> list[bytes]:
    return [gzip.compress(tar, mtime=0) for tar in _tars()]


def _read_gzipped_tar(folder: Path, content: bytes) -> None:
    (folder / "a.tar.gz").write_bytes(content)
    for _ in tars.groups(folder, "a.tar.gz", folder / "points"):
        pass


def _tar_bombs() -> list[bytes]:
    member = tarfile.TarInfo("a.txt")
    member.size = MANY
    body = member.tobuf() + bytes(MANY)
    pax = tarfile.TarInfo("a.jpg")
    pax.pax_headers = {"comment": "x" * MANY}
    return [gzip.compress(body, mtime=0), gzip.compress(pax.tobuf(tarfile.PAX_FORMAT), mtime=0)]


# Tensors


@cache
def _tensors() -> list[bytes]:
    embeddings = np.ones((3, 2, 8)) / np.sqrt(8)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float16", "int8"):
            path = Path(folder, precision)
            identity = {"teacher": "t", "views": "1"}
            digests, views = np.arange(3, dtype=np.uint64), np.zeros((3, 2, 4))
            store.write_shard(path, ["a", "b", "c"], digests, views, store.encode(embeddings, precision), identity)
            found.append(path.read_bytes())
        store.write_taxa(path, ["a", "b"], np.ones((2, 4)), 1.0, "t", "taxon")
        found.append(path.read_bytes())
    return found


def _read_tensors(folder: Path, content: bytes) -> None:
    path = folder / "train-00000.safetensors"
    path.write_bytes(content)
    try:
        shard = store.read_shard(path)
    except UserError:
        store.read_taxa(path)
        return
    shard.target(slice(None), slice(None))
    assert len(shard.keys) == len(shard.images)


def _header_bombs() -> list[bytes]:
    huge = {"__metadata__": {}, "images": {"dtype": "U64", "shape": [1 << 60], "data_offsets": [0, 1 << 63]}}
    deep = b'{"__metadata__":' + b"[" * 200_000
    headers = [json.dumps(huge).encode(), deep]
    return [len(text).to_bytes(8, "little") + text for text in headers] + [(1 << 62).to_bytes(8, "little") + b"{}"]


# Photographs


@cache
def _photograph() -> bytes:
    return encoded(picture("fuzz"), quality=50)


def _photographs() -> list[bytes]:
    exif = Image.Exif()
    exif[274], exif[36867] = 6, "2024:05:01 10:00:00"
    place = exif.get_ifd(34853)
    place[1], place[2], place[3], place[4] = "N", (1.0, 2.0, 3.0), "E", (1.0, 2.0, 3.0)
    plain = picture("fuzz")
    return [
        _photograph(),
        encoded(plain, exif=exif),
        encoded(plain, progressive=True),
        encoded(plain.convert("L")),
        encoded(plain.convert("CMYK")),
        encoded(plain, subsampling=0, comment="somebody"),
    ]


def _read_photograph(_: Path, content: bytes) -> None:
    for read in (images.decode, lambda data: images.inspect(data, 16), images.to_jpeg, images.capture):
        try:
            read(content)
        except images.BadImage:
            continue


def _photograph_bombs() -> list[bytes]:
    """A few bytes that claim to be 14,000 x 14,000 and 65,500 x 65,500 pixels, and two of PNG."""
    content = _photograph()
    place = content.index(b"\xff\xc0") + 5
    found = [content[:place] + 2 * side.to_bytes(2, "big") + content[place + 4 :] for side in (14_000, 65_500)]
    return [*found, _png(30_000), _png(9_900)]


def _png(side: int) -> bytes:
    """A PNG file of so many black and transparent pixels each way, packed a thousandfold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    line = bytes(1 + 4 * side)
    body = b"".join([*(packer.compress(line) for _ in range(min(side, 10_000))), packer.flush()])
    head = 2 * side.to_bytes(4, "big") + bytes((8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# Bundles and parameters


@cache
def _bundle() -> dict[str, bytes]:
    taxa = [
        {"ranks": ["Plantae", None, None, None, "Asteraceae", "Bellis", name], "common_names": {"en": name}}
        for name in ("perennis", "annua")
    ]
    table = np.ones(2, "<f4").tobytes() + np.ones((2, 4), np.int8).tobytes()
    files = {"taxa-0.bin": table, "model-0.json": b"{}"}
    about = {
        "format": bundle.FORMAT,
        "embedding": 4,
        "logit_scale": 20.0,
        "temperature": 1.5,
        "taxa": taxa,
        "text": {"file": "taxa-0.bin", "rows": 2, "columns": 4},
        "model": {"file": "model-0.json"},
        "files": {name: {"sha256": bundle.sha256(content), "bytes": len(content)} for name, content in files.items()},
        "provenance": {"teacher_identity": "a", "weights_sha256": 64 * "b"},
    }
    return files | {bundle.FILE: bundle.json_bytes(about)}


def _read_bundle(folder: Path, content: bytes) -> None:
    for name, other in _bundle().items():
        (folder / name).write_bytes(content if name == bundle.FILE else other)
    found = parent.read_parent(folder)
    assert found.integers.shape == (len(found.scales), found.width)


def _read_params(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_bytes(content)
    params.load(folder / "params.yaml")


def _yaml_bombs() -> list[bytes]:
    laughs = b"a0: &a0 [x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
    )
    return [laughs, b"index: " + b"[" * 50_000, b"index: " + b"9" * 100_000, b"? " * 20_000]


_NUMBERS = (b"-1", b"0", b"NaN", b"1e999", b"99999999999999999999", b"1.5", b"null", b"true")
_JSON = (*_NUMBERS, b"[]", b"{}", b'""', b"[[[[", b'{"a":', b'"\\ud800"', b"\x00")
KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "CSV",
            _tables,
            _read_table,
            (
                b'"',
                b'""',
                b"\n",
                b"\r",
                b"\0",
                b",",
                b";",
                b"\t",
                b"\xff",
                b"\xef\xbb\xbf",
                b"sep=",
                b"class",
                b"label",
            ),
            lambda: [(_HEADER + '"').encode() + b"x" * MANY, _HEADER.encode() + b"x" * MANY, b"," * 3_000_000],
        ),
        Kind("Parquet", _parquets, _read_parquet, (b"\0", b"\xff\xff\xff\xff", b"PAR1"), _parquet_bombs),
        Kind("Darwin Core zip", _archives, _read_archive, (b"PK\3\4", b"PK\1\2", b"\0\0", b"\xff\xff"), _zip_bombs),
        Kind(
            "meta.xml",
            lambda: [_META],
            _read_meta,
            (
                *(
                    *_NUMBERS,
                    b"<",
                    b"/>",
                    b"&lt;",
                    b"&a;",
                    b'""',
                    b"<!--",
                    b"<id/>",
                    b"utf-16",
                    b"hex",
                    b"idna",
                    b"\\t",
                ),
                *(b"fieldsTerminatedBy", b"../", b"/etc/passwd", b"<core>", b"rot13", b"base64", b"|", b"undefined"),
            ),
            lambda: [_laughs(), b"<a>" * 300_000],
        ),
        Kind(
            "tar",
            _tars,
            _read_tar,
            (b"\0" * 512, b"7777777", b"-1", b"ustar", b"path=", b"\x80\xff\xff\xff", b"L", b"x"),
        ),
        Kind("tar.gz", _gzipped_tars, _read_gzipped_tar, (b"\x1f\x8b\x08", b"\0" * 16, b"\xff\xff"), _tar_bombs),
        Kind("safetensors", _tensors, _read_tensors, _JSON, _header_bombs),
        Kind(
            "JPEG",
            _photographs,
            _read_photograph,
            (b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"Exif\0\0"),
            _photograph_bombs,
            1_000_000_000,
        ),
        Kind("bundle.json", lambda: [_bundle()[bundle.FILE]], _read_bundle, _JSON),
        Kind(
            "params.yaml",
            lambda: [(ROOT / name).read_bytes() for name in ("tests/tiny.yaml", "workflow/presets/insects.yaml")],
            _read_params,
            (
                *_JSON,
                b"&a ",
                b"*a",
                b"!!python/object",
                b"<<: *a",
                b": ",
                b"- ",
                b"|\n",
                b"\t",
                b"._",
                b"0x",
                b"2024-01-01",
            ),
            _yaml_bombs,
        ),
    )
}


def mutated(kind: Kind, random: np.random.Generator) -> bytes:
    """One of the good files with one to four changes."""
    good = kind.good()
    content = bytearray(good[random.integers(len(good))])
    for change in random.choice(len(_CHANGES), random.integers(1, 5)):
        _CHANGES[change](content, int(random.integers(len(content) + 1)), kind.words, random)
    return bytes(content)


def _flip(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    if place < len(content):
        content[place] ^= 1 << int(random.integers(8))


def _set(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    content[place : place + 1] = random.bytes(1)


def _delete(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    del content[place : place + int(random.integers(1, 40))]


def _repeat(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    content[place:place] = content[place : place + int(random.integers(1, 80))] * int(random.integers(1, 4))


def _truncate(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    del content[place:]


def _move(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    part = content[place : place + int(random.integers(1, 60))]
    other = int(random.integers(len(content) + 1))
    content[other : other + len(part)] = part


def _insert(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    word = words[random.integers(len(words))]
    content[place : place + int(random.integers(2)) * len(word)] = word


def _number(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    """A number in binary, of 2, 4 or 8 bytes, that is extreme."""
    size = int(random.choice([2, 4, 8]))
    content[place : place + size] = [bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1)][random.integers(3)]


def _value(content: bytearray, place: int, words: tuple[bytes, ...], random: np.random.Generator) -> None:
    """A number or a quoted text as it is written, exchanged for another value."""
    found = next(re.finditer(rb'"[^"\n]*"|\d+', content[place:]), None)
    if found:
        content[place + found.start() : place + found.end()] = words[random.integers(len(words))]


_CHANGES = (_flip, _set, _delete, _repeat, _truncate, _move, _insert, _insert, _number, _value, _value)


def every(kind: Kind, numbers: range) -> Iterator[tuple[int, bytes]]:
    """(number, content) of inputs; those with negative numbers are the bombs, 0 and following are mutations."""
    bombs = kind.bombs() if numbers.start < 0 else []
    for number in numbers:
        if -len(bombs) <= number < 0:
            yield number, bombs[number]
        elif number >= 0:
            yield number, mutated(kind, np.random.default_rng([zlib.crc32(kind.name.encode()), number]))
