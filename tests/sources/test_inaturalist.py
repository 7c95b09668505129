"""Source inaturalist, from an export in its own form to captions."""

from pathlib import Path
from typing import Any

import pytest

from bioclip_lite.sources.sample import Reject
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from support.photographs import DAISY, GANNET
from support.raw_forms import listed, photo, rejects, serving, source_params, to_captions, write_csv

RANKS = tuple(f"taxon_{rank}_name" for rank in taxonomy.RANKS)
# In the order of an export with these columns ticked; ``url`` is the page of the observation.
COLUMNS = [
    *("id", "observed_on", "time_zone", "user_id", "user_login", "user_name", "quality_grade", "license", "url"),
    *("image_url", "sound_url", "place_guess", "latitude", "longitude", "species_guess", "scientific_name"),
    *("common_name", "iconic_taxon_name", "taxon_id", *RANKS),
]


def observation(number: int, path: tuple[str | None, ...], address: str, **more: Any) -> list[object]:
    """A row of an export."""
    species = f"{path[5]} {path[6]}"
    row = {
        "id": number,
        "user_login": "ann",
        "quality_grade": "research",
        "license": "CC-BY-NC",
        "url": f"https://www.inaturalist.org/observations/{number}",
        "image_url": address,
        "scientific_name": species,
        **dict(zip(RANKS, (*path[:6], species), strict=True)),
        **more,
    }
    return [row.get(name, "") for name in COLUMNS]


def params(path: Path, *grades: str) -> Any:
    return source_params("inaturalist", path, quality_grades=list(grades))


def test_an_export_to_captions(tmp_path: Path) -> None:
    with serving() as web:
        rows = []
        for number in range(12):
            path, name = [(DAISY, "daisy"), (GANNET, "gannet")][number % 2]
            web.files[f"photos/{number}/medium.jpg"] = photo(number)
            address = web.url(f"photos/{number}/medium.jpg")
            rows.append(observation(number, path, address, common_name=name, user_name="" if number % 3 else "Ann B."))
        rows.append(observation(99, DAISY, ""))
        write_csv(tmp_path / "export" / "observations-1.csv", COLUMNS, rows[:7])
        write_csv(tmp_path / "export" / "observations-2.csv", COLUMNS, rows[7:])
        captions = to_captions(params(tmp_path / "export"), tmp_path / "data")
    assert len(captions) == 12
    assert rejects(tmp_path / "data") == {"observations-2.csv, line 7": "missing file"}
    assert {row["sci_com"] for row in captions} == {
        "a photo of Bellis perennis with common name daisy.",
        "a photo of Morus bassanus with common name gannet.",
    }
    assert {row["licence"] for row in captions} == {"CC-BY-NC"}
    assert {row["attribution"] for row in captions} == {"Ann B.", "ann"}


def test_a_row_is_an_observation_of_the_taxon_that_its_columns_name(tmp_path: Path) -> None:
    rows = [
        observation(7, DAISY, "https://example.org/photos/1/medium.jpg", license=""),
        observation(
            8, (*DAISY[:5], None, None), "https://example.org/photos/2/medium.jpg", scientific_name="Asteraceae"
        ),
    ]
    rows[1][COLUMNS.index("taxon_genus_name")] = rows[1][COLUMNS.index("taxon_species_name")] = ""
    table = write_csv(tmp_path / "observations-1.csv", COLUMNS, rows)
    (daisy, family), rejected = listed(params(table))
    assert not rejected
    assert (daisy.path, daisy.group, daisy.licence) == (DAISY, "inaturalist-7", "all rights reserved")
    assert (family.path, family.group) == ((*DAISY[:5], None, None), "inaturalist-8")
    short = ["id", "image_url", "scientific_name"]  # all that is needed
    table = write_csv(tmp_path / "short.csv", short, [[1, "https://example.org/1.jpg", "Bellis perennis"]])
    (found,), _ = listed(params(table))
    assert found.path[5:] == ("Bellis", "perennis") and found.licence is None


def test_only_the_grades_asked_for(tmp_path: Path) -> None:
    rows = [
        observation(n, DAISY, f"https://example.org/{n}.jpg", quality_grade=grade)
        for n, grade in enumerate(["research", "needs_id", "casual"])
    ]
    table = write_csv(tmp_path / "observations-1.csv", COLUMNS, rows)
    assert len(listed(params(table))[0]) == 3
    assert [sample.group for sample in listed(params(table, "research"))[0]] == ["inaturalist-0"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "a.csv", ["id", "scientific_name"], [[1, "Bellis perennis"]])
    with pytest.raises(UserError, match=r"a\.csv has no column image_url; tick it on iNaturalist's export page"):
        listed(params(table))
    with pytest.raises(UserError, match="no column image_url, quality_grade; tick them"):
        listed(params(table, "research"))
    with pytest.raises(UserError, match="nowhere does not exist; it must be the export of iNaturalist"):
        listed(params(tmp_path / "nowhere"))
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "observations-1.csv.zip").touch()
    with pytest.raises(UserError, match=r"holds no \.csv; .* unpack the \.zip first"):
        listed(params(tmp_path / "packed"))
    rows = [observation(1, DAISY, "https://example.org/1.jpg"), observation(2, DAISY, "https://x.org/2.jpg")[:-1]]
    _, rejected = listed(params(write_csv(tmp_path / "b.csv", COLUMNS, rows)))
    assert [(one.locator, one.reason) for one in rejected] == [("b.csv, line 3", "bad row")]
    assert isinstance(rejected[0], Reject)


def test_numbers_that_a_spreadsheet_has_rounded_are_no_observations(tmp_path: Path) -> None:
    rows = [observation(i, DAISY, f"https://example.org/{i}.jpg") for i in range(2)]
    for row in rows:
        row[COLUMNS.index("id")] = "1.25E+08"
    with pytest.raises(UserError, match=r"b\.csv, line 2: observation 1\.25E\+08 is a number .* has rounded"):
        listed(params(write_csv(tmp_path / "b.csv", COLUMNS, rows)))
