"""Where photographs come from.

A source is a module with two functions, both of which get section ``index`` of the parameters:

    samples(params) -> Iterator[Sample | Reject]   every photograph it knows, in a fixed order, without opening them
    read(params, locator) -> bytes                 the file of one of them

A new source is a new module and one entry in ``SOURCES``.
"""

from bioclip_lite.errors import UserError
from bioclip_lite.sources import folder, synthetic
from bioclip_lite.sources.sample import SPLITS, Reject, Sample, Source

__all__ = ["SOURCES", "SPLITS", "Reject", "Sample", "Source", "find_source"]

SOURCES: dict[str, Source] = {"synthetic": synthetic, "folder": folder}


def find_source(name: str) -> Source:
    if name not in SOURCES:
        raise UserError(f"params.yaml, index.source: there is no source {name!r}; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]
