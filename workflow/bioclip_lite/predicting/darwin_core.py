"""A Darwin Core archive of occurrences with their photographs (https://dwc.tdwg.org/text/).

An occurrence is what one photograph shows, identified by a machine and not verified. Without an answer it is an
occurrence without a name. Photographs that cannot be read are none.
"""

import io
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from bioclip_lite.metrics import off_list
from bioclip_lite.predicting.answers import Answer
from bioclip_lite.predicting.origin import Origin, below
from bioclip_lite.predicting.records import Record, path_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.utils.files import replacing

_COMMENT = b"bioclip-lite predict"
_DWC, _DC = "http://rs.tdwg.org/dwc/terms/", "http://purl.org/dc/terms/"
_OCCURRENCE = (
    *("occurrenceID", "basisOfRecord", "eventDate", "decimalLatitude", "decimalLongitude", "geodeticDatum"),
    *("scientificName", "taxonRank", *RANKS[:-1], "specificEpithet", "vernacularName"),
    *("identifiedBy", "dateIdentified", "identificationRemarks", "identificationVerificationStatus"),
)
_MULTIMEDIA = ("type", "format", "identifier", "created")
_META = """<?xml version="1.0" encoding="UTF-8"?>
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
{files}
</archive>
"""
_FILE = """  <{kind} encoding="UTF-8" rowType="{row}" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" \
fieldsEnclosedBy="" ignoreHeaderLines="1">
    <files><location>{name}</location></files>
    <{key} index="0"/>
{fields}
  </{kind}>"""
_EML = """<?xml version="1.0" encoding="UTF-8"?>
<eml:eml xmlns:eml="https://eml.ecoinformatics.org/eml-2.2.0" packageId="{identifier}" system="bioclip-lite">
  <dataset>
    <title>What {model} says of photographs</title>
    <creator><organizationName>{model}</organizationName></creator>
    <pubDate>{day}</pubDate>
    <abstract><para>Each record is one photograph, identified by a machine: {named}. {thresholds} Nobody has verified \
the identifications.</para></abstract>
    <contact><organizationName>{model}</organizationName></contact>
  </dataset>
</eml:eml>
"""


def is_ours(path: Path) -> bool:
    """Whether a file was written by ``write``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _COMMENT
    except zipfile.BadZipFile:
        return False


def write(output: Path, records: Callable[[], Iterable[Record]], origin: Origin) -> None:
    """Write the archive. ``records`` is called once for each of its two tables."""
    with replacing(output) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = _COMMENT
        archive.writestr(_member("meta.xml"), _meta())
        archive.writestr(_member("eml.xml"), _eml(origin))
        for name, header, row in (
            ("occurrence.txt", _OCCURRENCE, _occurrence),
            ("multimedia.txt", ("occurrenceID", *_MULTIMEDIA), _multimedia),
        ):
            rows = (row(record, origin) for record in records() if record["error"] is None)
            with archive.open(_member(name), "w", force_zip64=True) as file:
                _write_table(io.TextIOWrapper(file, "utf-8", newline=""), header, rows)


def _member(name: str) -> zipfile.ZipInfo:
    """An entry without the time of writing: equal answers are equal bytes."""
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


def _write_table(file: io.TextIOWrapper, header: Iterable[str], rows: Iterator[list[object]]) -> None:
    with file:
        file.write("\t".join(header) + "\n")
        for values in rows:
            # The form has no quotes: what would end a field or a line is a blank.
            texts = ("" if value is None else " ".join(str(value).split()) for value in values)
            file.write("\t".join(texts) + "\n")


def _identifier(record: Record, origin: Origin) -> str:
    """The same for one photograph in every run: made of its content and its place below the root."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{record['sha256']} {below(path_of(record), origin.root)}").urn


def _taken(record: Record) -> str | None:
    return f"{record['time']}{record['offset'] or ''}" if record["time"] else None


def _occurrence(record: Record, origin: Origin) -> list[object]:
    place = record["latitude"] is not None
    answer = record["answers"][0] if record["answers"] else None
    return [
        *(_identifier(record, origin), "MachineObservation", _taken(record)),
        *(record["latitude"], record["longitude"], "EPSG:4326" if place else None),
        *_taxon(answer),
        *(origin.named, origin.began, remarks(record, origin), "unverified"),
    ]


def _taxon(answer: Answer | None) -> list[str | None]:
    if answer is None:
        return [None] * (2 + len(RANKS) + 1)
    return [answer["scientific_name"], answer["rank"], *answer["path"], answer["common_name"]]


def remarks(record: Record, origin: Origin) -> str:
    """Say how certain the answer is, by which rule it was given, and what its species list says of it."""
    answer = record["answers"][0] if record["answers"] else None
    on_list = record["on_list"]
    other = (
        [] if on_list is None or on_list >= off_list.PROBABLY else [f"on the list with a probability of {on_list:.4f}"]
    )
    if answer is None:
        unknown = "none of the list" if other else "no taxon is certain enough"
        return f"unknown: {'; '.join([unknown, *other])}. {rule(origin)}"
    said = f"classified by a machine at the rank of {answer['rank']} with a probability of {answer['score']:.4f}"
    asked = "" if answer["threshold"] is None else f", threshold {answer['threshold']:g}"
    more = ["no photograph of it was learned from"] if answer["zero_shot"] else []
    return "; ".join([said + asked, *more, *other, *([answer["note"]] if answer["note"] else [])])


def rule(origin: Origin) -> str:
    """The thresholds of the ranks in words."""
    known = {rank: limit for rank, limit in (origin.thresholds or {}).items() if limit is not None}
    if not known:
        return "Every photograph has an answer, however uncertain."
    return f"Thresholds: {', '.join(f'{rank} {known[rank]:g}' for rank in RANKS if rank in known)}."


def _multimedia(record: Record, origin: Origin) -> list[object]:
    name = below(path_of(record), origin.root)
    return [_identifier(record, origin), "StillImage", record["media_type"], name, _taken(record)]


def _meta() -> str:
    core = _FILE.format(
        kind="core", row=f"{_DWC}Occurrence", name="occurrence.txt", key="id", fields=_fields(_DWC, _OCCURRENCE, 0)
    )
    extension = _FILE.format(
        kind="extension",
        row="http://rs.gbif.org/terms/1.0/Multimedia",
        name="multimedia.txt",
        key="coreid",
        fields=_fields(_DC, _MULTIMEDIA, 1),
    )
    return _META.format(files=f"{core}\n{extension}")


def _fields(terms: str, names: Iterable[str], first: int) -> str:
    return "\n".join(f'    <field index="{index}" term="{terms}{name}"/>' for index, name in enumerate(names, first))


def _eml(origin: Origin) -> str:
    return _EML.format(
        identifier=uuid.uuid5(uuid.NAMESPACE_OID, f"{origin.sha256} {origin.began}"),
        model=escape(origin.model),
        named=escape(origin.named),
        day=origin.began[:10],
        thresholds=rule(origin),
    )
