"""`convert.lists` and `convert.prior`: each list and the table is a job of its own to both engines."""

from pathlib import Path

from support import checkout
from support.checkout import planned, set_parameter, settled, snakemake


def test_a_change_of_one_list_makes_its_bundle_and_no_other(thin_built: Path, tmp_path: Path) -> None:
    folder = checkout.clone(thin_built, tmp_path / "clone")
    lists = folder / "data/lists"
    for name in ("alps.csv", "coast.txt"):
        (lists / name).write_text("Morus alba\nMorus nigra\n")
    (lists / "gbif.csv").write_text("species,decimalLatitude,decimalLongitude,month\nMorus alba,47,8,5\n")
    set_parameter(folder, "convert.lists", ["alps.csv", "coast.txt"])
    set_parameter(folder, "convert.prior", "gbif.csv")
    assert snakemake(folder) == {"relist": 2, "make_prior": 1, "convert": 1}
    bundles = {name: folder / "data/convert/lists" / name / "tfjs" for name in ("alps", "coast")}
    before = {name: (bundle / "model.json").read_text() for name, bundle in bundles.items()}
    assert planned(folder) == {}
    assert checkout.repro(folder) == (["index"], {})  # DVC sees data/lists as one; stage index has nothing to do

    (lists / "alps.csv").write_text("Morus alba\nMorus bassanus\n")
    stages, jobs = checkout.repro(folder)
    # DVC tracks lists, and all that is converted, as one folder each: two stages start and find nothing to do.
    assert (stages, jobs) == (["index", "convert", "evaluate"], {"relist": 1, "convert": 1})
    assert (bundles["alps"] / "model.json").read_text() != before["alps"]
    assert (bundles["coast"] / "model.json").read_text() == before["coast"]

    (lists / "gbif.csv").write_text("species,decimalLatitude,decimalLongitude,month\nMorus alba,47,9,5\n")
    assert checkout.repro(folder) == (["index", "convert", "evaluate"], {"make_prior": 1, "convert": 1})

    set_parameter(folder, "convert.lists", ["coast.txt"])
    set_parameter(folder, "convert.prior", None)
    assert snakemake(folder) == {"convert": 1}
    assert bundles["coast"].is_dir() and not bundles["alps"].exists()
    assert not (folder / "data/convert/prior/tfjs").exists()
    assert settled(folder)
