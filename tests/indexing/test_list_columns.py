import pytest

from bioclip_lite.indexing import list_columns


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("common_name", ""),
        ("Common name", ""),
        ("common_names", ""),
        ("COMMONNAME", ""),
        ("vernacularName", ""),
        ("vernacularname", ""),
        ("common_name_de", "de"),
        ("common name (de)", "de"),
        ("common:eng", "en"),
        ("vernacularName_fr", "fr"),
        ("common_name_pt_BR", "pt"),
        ("commonname_ger", "de"),
        ("German", "de"),
        ("Deutsch", "de"),
        ("deutscher Name", "de"),
        ("English common name", "en"),
        ("nom_vernaculaire", "fr"),
        ("Nom français", "fr"),
        ("Nombre común", "es"),
        ("Nederlandse naam", "nl"),
    ],
)
def test_common_names_are_known_by_their_language(header: str, language: str) -> None:
    assert list_columns.understand(["genus", header]).languages == {language: 1}


@pytest.mark.parametrize(
    "header",
    [
        *("common_name_id", "common_name_source", "common_name_alt", "name_de", "de", "cat", "lit name"),
        *("notes", "remarks", "abundance", "language", "name no."),
    ],
)
def test_a_column_that_may_mean_something_else_is_not_read(header: str) -> None:
    found = list_columns.understand(["genus", header])
    assert found.unread == [header] and not found.languages and found.fields == {"genus": 0}


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("scientificName", "scientific_name"),
        ("Scientific Name", "scientific_name"),
        ("Latin name", "scientific_name"),
        ("wissenschaftlicher_Name", "scientific_name"),
        ("taxon_name", "scientific_name"),
        ("taxon_species_name", "species"),
        ("taxon_class_name", "class"),
        ("dwc:specificEpithet", "species"),
        ("Family", "family"),
        ("name", "name"),
        ("Finest_Rank", "finest_rank"),
        ("finestRank", "finest_rank"),
        ("synonyms", "synonyms"),
        ("note", "note"),
    ],
)
def test_fields_in_the_spellings_of_published_tables(header: str, field: str) -> None:
    assert list_columns.understand([header]).fields == {field: 0}


def test_a_column_that_is_there_twice_is_told() -> None:
    assert list_columns.understand(["name", "German", "Deutsch"]).twice == "Deutsch"
    assert list_columns.understand(["scientific_name", "Latin name"]).twice == "Latin name"
    assert list_columns.understand(["name", "common_name", "English"]).twice is None


def test_a_header_names_taxa() -> None:
    for header in (["species"], ["name", "x"], ["common_name"], ["German", "abundance"]):
        assert list_columns.names_taxa(list_columns.understand(header)), header
    for header in (["Bellis perennis"], ["German"], ["Bellis perennis", "Daisy"], ["note"], []):
        assert not list_columns.names_taxa(list_columns.understand(header)), header
