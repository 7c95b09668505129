"""Identifiers of photographs in published data sets, as texts "kind:value", by which two lists are compared.

Kinds: treeoflife, eol (content id), bioscan and inat21 (file names), gbif (occurrence), inaturalist (photograph), and
address, for web addresses other than those of iNaturalist's photographs.
"""

import re
from collections.abc import Iterator, Mapping

from bioclip_lite.sources.catalogues import whole
from bioclip_lite.sources.places import is_address

# Columns of catalogues: TreeOfLife-10M and -200M, BioTrove, Darwin Core, and the samples.parquet of another run.
_COLUMNS = {
    **{"treeoflife_id": "treeoflife", "uuid": "treeoflife", "eol_content_id": "eol", "bioscan_filename": "bioscan"},
    **{"inat21_filename": "inat21", "gbifID": "gbif", "photo_id": "inaturalist"},
}
_ADDRESSES = (
    *("source_url", "medium_source_url", "eol_full_size_copy_url", "photo_url", "image_url", "identifier"),
    *("url", "locator"),
)
_SOURCES = {"gbif": "gbif", "eol": "eol"}  # data_source of TreeOfLife-200M, whose source_id is of this kind
COLUMNS = (*_COLUMNS, *_ADDRESSES, "data_source", "source_id")
_INATURALIST = re.compile(
    r"https?://(?:static\.inaturalist\.org|inaturalist-open-data\.s3\.amazonaws\.com)/photos/(\d+)/.+", re.IGNORECASE
)
_EOL_FILE = re.compile(r"(?:.*/)?(\d+)_\d+_eol[_-]full-size-copy\.\w+")  # as in the Rare Species set
_INAT21_FILE = re.compile(r"(?:.*/)?\d{5}(?:_[^/_]+){7,}/([0-9a-f-]{36}\.jpg)")


def of_record(record: Mapping[str, str | None]) -> Iterator[str]:
    """The identifiers in a row of a catalogue, by its columns as they are written."""
    for column, kind in _COLUMNS.items():
        if value := whole(record.get(column)):
            yield f"{kind}:{value}"
    kind_of_source = _SOURCES.get((record.get("data_source") or "").lower())
    if kind_of_source and (value := whole(record.get("source_id"))):
        yield f"{kind_of_source}:{value}"
    for column in _ADDRESSES:
        if (address := record.get(column)) and is_address(address):
            yield of_address(address)


def of_address(address: str) -> str:
    """The identifier of the photograph at a web address, the same for all sizes of one of iNaturalist's."""
    if photograph := _INATURALIST.fullmatch(address):
        return f"inaturalist:{photograph[1]}"
    return f"address:{address.partition('://')[2]}"


def of_locator(locator: str) -> Iterator[str]:
    """The identifiers in the place of a photograph."""
    if is_address(locator):
        yield of_address(locator)
    elif found := _EOL_FILE.fullmatch(locator):
        yield f"eol:{found[1]}"
    elif found := _INAT21_FILE.fullmatch(locator):
        yield f"inat21:{found[1]}"
