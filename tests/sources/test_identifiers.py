"""Identifiers: two lists name a photograph alike, in whatever columns, addresses and file names they do so."""

import pytest

from bioclip_lite.sources.identifiers import of_address, of_locator, of_record

UUID = "6d97aaaa-47c3-4bda-8c72-cdf19a1bf000"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"treeoflife_id": UUID, "eol_content_id": "9001.0", "eol_page_id": "50.0"},
            {f"treeoflife:{UUID}", "eol:9001"},
        ),
        ({"uuid": UUID, "data_source": "EOL", "source_id": "9001"}, {f"treeoflife:{UUID}", "eol:9001"}),
        ({"data_source": "GBIF", "source_id": "42", "source_url": None}, {"gbif:42"}),
        ({"data_source": "FathomNet", "source_id": "42"}, set()),
        ({"gbifID": "42"}, {"gbif:42"}),
        ({"bioscan_part": "1.0", "bioscan_filename": "4.jpg"}, {"bioscan:4.jpg"}),
        ({"inat21_filename": f"{UUID}.jpg", "inat21_cls_num": "0"}, {f"inat21:{UUID}.jpg"}),
        (
            {"photo_id": "77", "photo_url": "https://inaturalist-open-data.s3.amazonaws.com/photos/77/original.jpg"},
            {"inaturalist:77"},
        ),
        ({"identifier": "https://example.org/a.jpg?x=1", "locator": "a.jpg"}, {"address:example.org/a.jpg?x=1"}),
        ({"kingdom": "Animalia", "photo_id": None}, set()),
    ],
)
def test_columns_of_catalogues(record: dict[str, str | None], expected: set[str]) -> None:
    assert set(of_record(record)) == expected


def test_one_photograph_has_one_identifier_at_all_addresses() -> None:
    hosts = ("https://static.inaturalist.org", "https://inaturalist-open-data.s3.amazonaws.com")
    addresses = [
        f"{host}/photos/77/{size}.{end}" for host in hosts for size in ("medium", "large") for end in ("jpg", "JPEG")
    ]
    assert {of_address(address) for address in addresses} == {"inaturalist:77"}
    assert of_address("http://example.org/photos/77/a.jpg") == of_address("https://example.org/photos/77/a.jpg")
    assert of_address("https://example.org/photos/77/a.jpg") != "inaturalist:77"


@pytest.mark.parametrize(
    ("locator", "expected"),
    [
        ("https://static.inaturalist.org/photos/77/medium.jpg", ["inaturalist:77"]),
        ("dataset/animalia-chordata/9001_50_eol-full-size-copy.jpg", ["eol:9001"]),
        (f"train/00012_Animalia_Chordata_Aves_Suliformes_Sulidae_Morus_bassanus/{UUID}.jpg", [f"inat21:{UUID}.jpg"]),
        ("birds/77.jpg", []),
        ("shard-000000.tar:512:1000", []),
    ],
)
def test_places_of_photographs(locator: str, expected: list[str]) -> None:
    assert list(of_locator(locator)) == expected
