"""The size of a bundle's table of taxa, which is known before anything is trained, and the limit on it."""

from typing import Literal

from bioclip_lite.utils.errors import UserError

_SCALE = 4  # bytes, float32, of a row


def table_bytes(taxa: int, columns: int) -> int:
    """Count the bytes of an int8 table with a row of ``columns`` numbers for each of the ``taxa``."""
    return taxa * row_bytes(columns)


def row_bytes(columns: int) -> int:
    """Count the bytes of one taxon in the table: the ``columns`` numbers of its embedding, and their scale."""
    return columns + _SCALE


def check(taxa: int, columns: int, limit: int | None, over_budget: Literal["refuse", "genera"]) -> None:
    """Raise UserError where the table of the ``taxa`` is larger than ``limit`` bytes, and may not be."""
    size = table_bytes(taxa, columns)
    if limit is not None and size > limit and over_budget == "refuse":
        raise UserError(
            f"the web bundle's table of {taxa:,} taxa would take {size / 1e6:.1f} MB, more than convert.taxa_bytes "
            f"({limit / 1e6:.1f} MB, {limit // row_bytes(columns):,} taxa), of which each visitor of a page downloads "
            "what convert.whole_table says. Lists are regional: shorten index.species_list to the taxa of a region. Or "
            f"set convert.taxa_bytes to {size} and name lists of regions in convert.lists, whose bundles come from the "
            "same model. Or set "
            "convert.over_budget to genera, which puts a representative of their genus in the place of species with "
            "few photographs"
        )
