"""The sources of photographs by the name that ``index.source`` gives.

A source is a module with two functions, which take section ``index`` of the parameters:

    samples(params) -> Iterator[Sample | Reject]   yield every photograph in a fixed order, without opening it
    read(params, locator) -> bytes                 return the file of one; OSError with the reason if there is none

and, if photographs may have to be downloaded,

    prepare(params, locators) -> None              download missing files in parallel; leave failures to ``read``

and, if there may be photographs that ``samples`` does not list,

    unlisted(params) -> Iterator[Sample]           yield them in split unlabelled; those that are listed are passed over

and, if its photographs are no files at locators of ``places``,

    state(params, locator) -> str | None           tell whether one is still the same, as ``places.state`` does

To add a source, write its module, name it in ``SOURCES``, and write its test.
"""

from bioclip_lite.sources import (
    biotrove,
    clip_benchmark,
    darwincore,
    folder,
    inat2021,
    inat_captions,
    inaturalist,
    synthetic,
    table,
    treeoflife,
)
from bioclip_lite.sources.sample import Source
from bioclip_lite.utils.errors import UserError

SOURCES: dict[str, Source] = {
    "synthetic": synthetic,
    "folder": folder,
    "csv": table,
    "inat2021": inat2021,
    "inat_captions": inat_captions,
    "inaturalist": inaturalist,
    "treeoflife10m": treeoflife,
    "treeoflife200m": treeoflife,
    "biotrove": biotrove,
    "darwincore": darwincore,
    "clip_benchmark": clip_benchmark,
}


def find_source(name: str) -> Source:
    if name not in SOURCES:
        raise UserError(f"params.yaml, index.source: there is no source {name!r}; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]
