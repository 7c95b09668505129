"""Source darwincore: a Darwin Core archive as GBIF gives it for download, packed (.zip) or unpacked.

The core lists occurrences, extensions (Multimedia, Image, Audubon Core) their photographs, or else its own column
associatedMedia; another one (VernacularName), if there, common names by language. Rows that are no still images are
left out. All photographs of one occurrence are one observation. Photographs are web addresses, or files that lie beside
the archive.

Archives are joined through temporary files, so memory does not grow with them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.sources import archive, fields, identifiers, places, tars
from bioclip_lite.sources.archive import Open, Row, Table
from bioclip_lite.sources.languages import language_code
from bioclip_lite.sources.lookup import lookup
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_MEDIA = ("gbif.org/terms/1.0/multimedia", "gbif.org/terms/1.0/image", "tdwg.org/ac/terms/multimedia")
_VERNACULAR = "gbif.org/terms/1.0/vernacularname"
_OCCURRENCE = "dwc/terms/occurrence"
_TERMS = {  # those that are read, of the some 200 columns of an archive
    *taxonomy.RANKS,
    *("specificepithet", "scientificname", "acceptedscientificname", "taxonrank", "vernacularname", "language"),
    *("license", "rights", "usageterms", "rightsholder", "recordedby", "creator", "owner"),
    *("type", "format", "identifier", "accessuri", "goodqualityaccessuri", "references", "associatedmedia"),
}
_PLACES = ("accessuri", "identifier", "goodqualityaccessuri", "references")  # of a photograph, the surest first
_ASSOCIATED = "associatedmedia"
_IMAGE = re.compile(r"\.(jpe?g|png|webp|tiff?|gif|bmp|heic|avif)\b", re.IGNORECASE)
_OTHER_MEDIA = re.compile(r"\.(mp3|wav|m4a|ogg|flac|mp4|mov|avi|webm|pdf|html?)$", re.IGNORECASE)


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    with archive.opened(Path(params["path"])) as (open_file, names):
        core, extensions = archive.described(params["path"], open_file, names, _TERMS)
        media = [table for table in extensions if table.kind.endswith(_MEDIA)]
        own = _ASSOCIATED in core.columns and not media
        if not core.kind.endswith(_OCCURRENCE) or not (media or own):
            kinds = ", ".join(table.kind.rsplit("/", 1)[-1] for table in (core, *extensions))
            raise UserError(
                f"{params['path']} has no occurrences with multimedia (its tables: {kinds}); download a Darwin Core "
                "archive of occurrences that have images"
            )
        if own:
            media = [core]
        vernacular = [table for table in extensions if table.kind.endswith(_VERNACULAR)]
        with (
            lookup((i, row) for i, row in archive.rows(open_file, core) if i) as occurrences,
            lookup((i, row) for table in vernacular for i, row in archive.rows(open_file, table) if i) as vernaculars,
            lookup(_listed_before(open_file, media)) as before,
        ):
            for number, table in enumerate(media):
                for item in _photographs(open_file, table, occurrences, vernaculars):
                    if isinstance(item, Reject) or not any(n < number for n in before(item.key)):
                        yield item


def _listed_before(open_file: Open, media: list[Table]) -> Iterator[tuple[str, int]]:
    """Key of each photograph and number of its table, of all tables but the last: several may list the same ones."""
    for number, table in enumerate(media[:-1]):
        for i, row in archive.rows(open_file, table):
            if i and (locator := _locator(row)):
                yield key_of(f"{i}/{locator}"), number


def prepare(params: "Origin", locators: Iterable[str]) -> None:
    places.prepare(params, locators)


def read(params: "Origin", locator: str) -> bytes:
    path = Path(params["path"])
    return places.read(params, path if path.is_dir() else path.parent, locator)


_understand = lru_cache(maxsize=64)(fields.understand)  # the occurrences of an archive have the same columns
Get = Callable[[str], list[Any]]


def _photographs(open_file: Open, media: Table, occurrences: Get, vernaculars: Get) -> Iterator[Sample | Reject]:
    identity: str | None = None
    seen: set[str] = set()  # photographs of this occurrence, which archives sometimes list twice
    for number, (i, row) in enumerate(archive.rows(open_file, media), 1):
        place = f"{media.files[0]}, row {number}"
        occurrence: Row | None = next(iter(occurrences(i)), None) if i else None
        if i != identity:
            fields.refuse_rounded(place, i)
            identity, seen, shared = i, set(), _of_occurrence(occurrence or {}, vernaculars(i or ""))
        if media.kind.endswith(_OCCURRENCE):
            locators: list[str | None] = [*_associated(row)]
        else:
            locators = [_locator(row)] if _still_image(row, media.kind) else []
        for locator in locators:
            if occurrence is None:
                yield Reject(place, "bad row", f"there is no occurrence {i}")
            elif locator is None:
                yield Reject(place, "missing file", f"occurrence {i}: the identifier is empty")
            elif locator not in seen:
                seen.add(locator)
                yield _sample(str(i), locator, row, *shared)


def _locator(row: Row) -> str | None:
    """The file of a photograph: accessURI or identifier, or another column if only that has the address of an image.

    ``identifier`` is often a number or URN, and ``references`` a page; some exporters have them the other way round.
    """
    found = [text for term in _PLACES if (text := row.get(term))]
    images = [text for text in found if places.is_address(text) and _IMAGE.search(text)]
    given = [text for term in _PLACES[:2] if (text := row.get(term))]
    if images and not any(places.is_address(text) for text in given):
        return images[0].replace("\\", "/")
    return given[0].replace("\\", "/") if given else next(iter(images), None)


def _associated(row: Row) -> list[str]:
    """The photographs in associatedMedia, which Darwin Core lists with bars; others use semicolons or commas."""
    texts = (text.strip() for text in re.split(r"[|;]|,(?=\s*https?:)", row.get(_ASSOCIATED) or ""))
    return [text.replace("\\", "/") for text in texts if text and not _OTHER_MEDIA.search(text)]


def _of_occurrence(occurrence: Row, vernaculars: list[Row]) -> tuple[fields.Row, tuple[tuple[str, str], ...]]:
    """The fields and common names by language that all photographs of an occurrence share."""
    row = fields.row_of(_understand(tuple(occurrence)), [*occurrence.values()])
    row["attribution"] = occurrence.get("rightsholder") or occurrence.get("recordedby")
    row["licence"] = occurrence.get("license")
    row["gbifid"] = occurrence.get("gbifid")
    names: dict[str, str] = {}
    for entry in vernaculars:
        name, language = entry.get("vernacularname"), language_code(entry.get("language"))
        if name and language:
            names.setdefault(language, name)
        elif name:
            row["common_name"] = row.get("common_name") or name
    row["common_name"] = row.get("common_name") or names.get("en")
    return row, tuple(sorted(names.items()))


def _sample(identity: str, locator: str, media: Row, shared: fields.Row, names: tuple[tuple[str, str], ...]) -> Sample:
    row = dict(shared)
    row["observation"] = identity
    row["licence"] = media.get("license") or media.get("rights") or media.get("usageterms") or shared["licence"]
    row["attribution"] = (
        media.get("rightsholder") or media.get("creator") or media.get("owner") or shared["attribution"]
    )
    row["split"] = None
    known = tuple(identifiers.of_record({"gbifID": row["gbifid"]}))
    return fields.to_sample(row, key_of(f"{identity}/{locator}"), locator, names, known)


def _still_image(row: Row, kind: str) -> bool:
    """By its type, or where that is missing by its format or name; the Image extension holds nothing else."""
    stated = re.split("[/:#]", row.get("type") or "")[-1]
    if stated:
        return re.sub("[^a-z]", "", stated.lower()) in ("stillimage", "image", "photograph", "photo")
    if kind.endswith("1.0/image"):
        return True
    form = (row.get("format") or "").lower()
    if form:
        return "image" in form or form.strip(". ") in tars.IMAGES
    return _IMAGE.search(_locator(row) or "") is not None
