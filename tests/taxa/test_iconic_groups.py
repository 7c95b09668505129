"""iNaturalist's iconic groups: the supercategories of the competition's set of 2021."""

import csv
import os
from pathlib import Path

import pytest

from bioclip_lite.sources.inat_captions import named
from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.iconic_groups import NAMES, ranks_of, supercategory
from bioclip_lite.texts.captions import all_texts


@pytest.mark.parametrize(
    ("names", "group"),
    [
        ({"kingdom": "Animalia", "phylum": "Chordata", "class": "Aves"}, "Birds"),
        ({"kingdom": "Animalia", "phylum": "Chordata", "class": "Actinopterygii"}, "Ray-finned Fishes"),
        ({"kingdom": "Animalia", "phylum": "Mollusca", "class": "Gastropoda"}, "Mollusks"),
        ({"kingdom": "Animalia", "phylum": "Annelida", "class": "Clitellata"}, "Animalia"),
        ({"kingdom": "Plantae", "genus": "Bellis"}, "Plants"),
        ({"class": "Insecta"}, "Insects"),
        ({"kingdom": "Bacteria"}, None),
        ({"genus": "Bellis"}, None),
    ],
)
def test_supercategories(names: dict[str, str], group: str | None) -> None:
    assert supercategory(taxonomy.make_path(names)) == group


def test_the_ranks_of_a_group_lead_back_to_it() -> None:
    for group in NAMES:
        assert supercategory(taxonomy.make_path(ranks_of(group))) == group
    assert ranks_of("Insects") == {"kingdom": "Animalia", "phylum": "Arthropoda", "class": "Insecta"}
    assert ranks_of("Daisies") == {}


def test_all_10000_categories_of_2021() -> None:
    """Their supercategories, their labels as a template, and LiT's sentences about them read back."""
    if "BIOCLIP_LITE_SAMPLES" not in os.environ:
        pytest.skip("BIOCLIP_LITE_SAMPLES is not set")
    file = Path(os.environ["BIOCLIP_LITE_SAMPLES"], "inat2021-categories.csv")
    section = {"templates": {"label": "{common_name} {supercategory} {genus}"}, "languages": []}
    with file.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 10_000
    for row in rows:
        names = [*(row[rank] for rank in taxonomy.RANKS[:6]), row["specific_epithet"]]
        path = taxonomy.make_path(dict(zip(taxonomy.RANKS, names, strict=True)))
        assert supercategory(path) == row["supercategory"]
        said = all_texts({"ranks": path, "common_name": row["common_name"]}, section, ["common_name"])
        assert said["label"] == " ".join(row["label"].split())
        for scientific in (" ".join(names[5:]), " ".join(names)):
            found = named(f"A photo of the {row['common_name']} {row['supercategory']} {scientific}.")
            assert found["common_name"] == row["common_name"]
            assert (found["supercategory"], found["genus"], found["species"]) == (row["supercategory"], *names[5:])
