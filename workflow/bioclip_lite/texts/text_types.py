"""Captions that name the taxon of a photograph: BioCLIP's text types and the sentence of LiT on iNaturalist.

BioCLIP (Stevens et al. 2024), scripts/evobio10m/make_wds.py; LiT: Nakkab, Feuer and Hegde (2022).
"""

from collections.abc import Sequence

from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.iconic_groups import supercategory
from bioclip_lite.utils.randomness import digest

TYPES = ("sci", "com", "taxon", "taxonTag", "sci_com", "taxon_com", "taxonTag_com", "lit")
LIT_COLUMNS = ("common_name", *taxonomy.RANKS)
ALL_COLUMNS = ("common_name", "supercategory", *taxonomy.RANKS)  # that the sentence of LiT may list


def caption(
    path: taxonomy.Path,
    common_name: str | None,
    kind: str,
    lit_columns: Sequence[str] = LIT_COLUMNS,
    group: str | None = None,
) -> str:
    """The caption of one of TYPES for a taxon.

    Ranks that are not known are left out. Without a common name its place is taken by the scientific name, and where
    there is no species by the known ranks; ``sci`` then gives the lowest known rank.

    Args:
        lit_columns: those of ALL_COLUMNS that the LiT sentence lists, in order.
        group: the supercategory that the source states; None: the iconic group of the taxon.
    """
    named = [(rank, name) for rank, name in zip(taxonomy.RANKS, path, strict=True) if name]
    taxon = " ".join(name for _, name in named)
    scientific = taxonomy.scientific_name(path)
    if kind == "lit":
        values = {**dict(named), "common_name": common_name, "supercategory": group or supercategory(path)}
        return f"A photo of a {' '.join(v for c in lit_columns if (v := values.get(c))) or scientific}"
    bodies = {
        "sci": scientific,
        "com": common_name or (scientific if path[6] else taxon),
        "taxon": taxon,
        "taxonTag": " ".join(f"{rank} {name}" for rank, name in named),
    }
    body, _, addition = kind.partition("_")
    ending = f" with common name {bodies[addition]}" if addition else ""
    return f"a photo of {bodies[body]}{ending}."


def draw_type(types: Sequence[str], seed: int, epoch: int, key: str) -> str:
    """The text type that a sample is shown with in one epoch; does not depend on batch or worker."""
    return types[digest("caption", seed, epoch, key) % len(types)]
