"""Where photographs come from.

A source is a module with two functions, both of which get section ``index`` of the parameters:

    samples(params) -> Iterator[Sample | Reject]   every photograph it knows, in a fixed order, without opening them
    read(params, locator) -> bytes                 the file of one of them; OSError says why there is none

and, where photographs may have to be downloaded,

    prepare(params, locators) -> None              fetch in parallel what is not here yet; failures are left to ``read``

A new source is a new module and one entry in ``SOURCES``.
"""

from bioclip_lite.sources import biotrove, clip_benchmark, darwincore, folder, inat2021, inaturalist, synthetic, table, treeoflife
from bioclip_lite.sources.sample import SPLITS, Reject, Sample, Source
from bioclip_lite.utils.errors import UserError

__all__ = ["SOURCES", "SPLITS", "Reject", "Sample", "Source", "find_source"]

SOURCES: dict[str, Source] = {
    "synthetic": synthetic,
    "folder": folder,
    "csv": table,
    "inat2021": inat2021,
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
