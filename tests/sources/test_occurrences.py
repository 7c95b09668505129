"""Occurrences from tables as GBIF gives them: what is read, what is left out and why."""

from collections import Counter
from pathlib import Path

import pytest

from bioclip_lite.sources import occurrences
from bioclip_lite.utils.errors import UserError
from support import ranges

WANTED = ranges.occurrences(ranges.sample(4), 3)
ROWS = list(ranges.rows(WANTED))


def read(table: Path) -> tuple[list[occurrences.Occurrence], Counter[str]]:
    left_out: Counter[str] = Counter()
    return list(occurrences.read(table, left_out)), left_out


def unpacked(folder: Path) -> Path:
    (folder / "table.csv").write_text(ranges.simple(ROWS))
    return folder / "table.csv"


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ranges.write_archive(folder / "archive.zip", ROWS),
        lambda folder: ranges.write_simple(folder / "simple.zip", ROWS),
        unpacked,
    ],
    ids=["archive", "simple", "unpacked"],
)
def test_every_form_of_a_download_gives_the_same_occurrences(tmp_path: Path, make: object) -> None:
    found, left_out = read(make(tmp_path))  # type: ignore[operator]
    assert [(one.path[5:], *one[1:]) for one in found] == [(one.path[5:], *one[1:]) for one in WANTED]
    assert not left_out


def test_rows_that_tell_no_place_or_month_of_a_wild_organism_are_left_out_and_counted(tmp_path: Path) -> None:
    changes: list[tuple[dict[str, str], str]] = [
        ({"occurrenceStatus": "ABSENT"}, "absent"),
        ({"basisOfRecord": "FOSSIL_SPECIMEN"}, "fossil, or kept by people"),
        ({"decimalLatitude": ""}, "no place, or a vague one"),
        ({"decimalLatitude": "91"}, "no place, or a vague one"),
        ({"decimalLatitude": "0.0", "decimalLongitude": "0.0"}, "no place, or a vague one"),
        ({"coordinateUncertaintyInMeters": "250000"}, "no place, or a vague one"),
        ({"eventDate": "2021-04-30/2021-05-02"}, "no month"),
        ({"eventDate": "", "month": ""}, "no month"),
        ({"eventDate": "2021", "month": "13"}, "no month"),
    ]
    good = {"eventDate": "2021-05-01/2021-05-20", "month": ""}
    rows = [ROWS[0] | change for change, _ in changes] + [ROWS[0] | good]
    found, left_out = read(ranges.write_simple(tmp_path / "simple.zip", rows))
    assert [one.month for one in found] == [5]
    assert left_out == Counter(reason for _, reason in changes)


def test_a_csv_of_ones_own_needs_names_places_and_months(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(
        'scientificName,decimalLatitude,decimalLongitude,month\n"Morus alba, white",47.5,8.5,6\n'
    )
    (found,), _ = read(tmp_path / "own.csv")
    assert (found.path[5:], *found[1:]) == (("Morus", "alba"), 47.5, 8.5, 6)
    (tmp_path / "bare.csv").write_text("species,decimalLatitude\nMorus alba,47.5\n")
    with pytest.raises(UserError, match=r"bare.csv has no column decimalLongitude, month or eventDate; download"):
        read(tmp_path / "bare.csv")
