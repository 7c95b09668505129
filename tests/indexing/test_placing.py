from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.indexing import names, placing
from bioclip_lite.taxa.taxonomy import label_space
from bioclip_lite.utils.errors import UserError
from support.fake_bundles import DAISY, GANNETS, MULBERRIES, TAXA


def placed(tmp_path: Path, text: str) -> placing.Placed:
    (tmp_path / "list.csv").write_text(text)
    return placing.read(tmp_path / "list.csv", TAXA)


def test_a_line_means_the_taxon_of_the_model_and_all_below_it(tmp_path: Path) -> None:
    found = placed(tmp_path, "# my list\nDaisy\nmorus ALBA L.\nSulidae\n")
    assert found.leaves == [(*GANNETS, "bassanus"), (*GANNETS, "serrator"), DAISY, (*MULBERRIES, "alba")]
    assert not placing.warnings(found)


def test_a_new_species_takes_the_ranks_of_its_relatives(tmp_path: Path) -> None:
    found = placed(tmp_path, "Bellis annua\nBellis perennis\n")
    assert found.leaves == [(*DAISY[:6], "annua"), DAISY]
    found = placed(tmp_path, "family,genus,species\nAsteraceae,Bellium,minutum\nAsteraceae,Bellis,annua\n")
    assert found.leaves == [(*DAISY[:6], "annua"), (*DAISY[:5], "Bellium", "minutum")]


def test_a_homonym_is_left_out_unless_the_list_says_which(tmp_path: Path) -> None:
    found = placed(tmp_path, "Morus rubra\nBellis perennis\nBellis annua\n")
    assert found.leaves == [(*DAISY[:6], "annua"), DAISY]
    (warning,) = placing.warnings(found)
    assert "'Morus rubra' (may mean Morus (Animalia, Sulidae), Morus (Plantae, Moraceae))" in warning
    found = placed(tmp_path, "kingdom,genus,species\nPlantae,Morus,rubra\nPlantae,Morus,alba\n")
    assert found.leaves == [(*MULBERRIES, "alba"), (*MULBERRIES, "rubra")]


def test_a_common_name_that_nobody_knows_is_no_taxon(tmp_path: Path) -> None:
    found = placed(tmp_path, "Common Kingfisher\nGREY HERON\nHoopoe\nDaisys\nSulidae\n")
    assert [match.entry.text for match in found.unplaced] == ["Common Kingfisher", "GREY HERON", "Hoopoe", "Daisys"]
    (warning,) = placing.warnings(found)
    assert warning.startswith("4 lines are left out") and "'Daisys' (nearest: Daisy)" in warning


def test_a_name_without_relatives_is_placed_apart_and_told(tmp_path: Path) -> None:
    found = placed(tmp_path, "Upupa epops\nBellis perennis\n")
    assert found.leaves == [(None, None, None, None, None, "Upupa", "epops"), DAISY]
    (warning,) = placing.warnings(found)
    assert "Upupa epops" in warning and "columns of ranks" in warning


def test_a_misspelt_name_of_the_model_is_told(tmp_path: Path) -> None:
    found = placed(tmp_path, "Bellis perenis\nBellis annua\nMorus nigra\n")
    assert found.nearly == {"Bellis perenis": "Bellis perennis"}
    (warning,) = placing.warnings(found)
    assert warning.endswith("correct the list if it is misspelt: Bellis perenis (Bellis perennis?)")


def test_a_scientific_name_does_not_match_another_taxon_of_the_same_common_name(tmp_path: Path) -> None:
    found = placed(tmp_path, "scientific_name,common_name\nBellis annua,Daisy\nMorus alba,\n")
    assert found.leaves == [(*DAISY[:6], "annua"), (*MULBERRIES, "alba")]


def test_a_second_line_of_a_taxon_is_told(tmp_path: Path) -> None:
    found = placed(tmp_path, "name,common_name_fr\nBellis perennis,P\u00e2querette\nDaisy,autre\nMorus alba,\n")
    assert found.repeated == ["Daisy"] and found.entries[DAISY].common_names == ("P\u00e2querette",)
    assert placing.warnings(found) == ["1 line names a taxon of an earlier line: Daisy"]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "Kingfisher\n", "Bellis perennis\nDaisy\n"])
def test_a_list_without_two_taxa_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"list\.csv (lists no name|names fewer than two taxa)"):
        placed(tmp_path, text)
    with pytest.raises(UserError, match="there is no species list"):
        placing.read(tmp_path / "absent.csv", TAXA)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(sorted(TAXA, key=str)), min_size=2, unique=True))
def test_any_part_of_the_model_in_any_order_is_that_part(part: list[tuple[str, ...]]) -> None:
    entries = [names.Entry(str(path), path, None, ()) for path in part]
    found = placing.place(entries, TAXA)
    assert found.leaves == label_space(part)
    assert not placing.warnings(found)
