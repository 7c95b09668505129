import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_lite.evaluation.web_variants import columns
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.taxa.taxonomy import RANKS, label_space, taxon_id
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_table
from bioclip_lite.web import bundle
from support import lessons

D = 8
ROW = D + 4  # bytes
GANNETS = ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus")
MULBERRIES = ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus")
PHOTOGRAPHS: dict[TaxonPath, int] = {
    (*GANNETS, "bassanus"): 90,
    (*GANNETS, "capensis"): 3,
    (*GANNETS, "serrator"): 2,
    (*MULBERRIES, "alba"): 1,
    (*MULBERRIES, "nigra"): 50,
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Rosaceae", "Rubus", None): 5,  # a genus that is a leaf
}


def make_data(folder: Path, counts: dict[TaxonPath, int]) -> store.Taxa:
    leaves = label_space(counts)
    rows = [
        {
            "taxon_id": taxon_id(path),
            **dict(zip(RANKS, path, strict=True)),
            "common_name": "Cape Gannet" if path[6] == "capensis" else None,
            "common_names": {"de": f"{path[6]} auf Deutsch"} if path[6] in ("alba", "capensis") else {},
            "leaf": path in leaves,
            "pretrain": counts[path] // 2,
            "train": counts[path] - counts[path] // 2,
            "test": 1000 - counts[path],
        }
        for path in leaves
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_table(folder / "index" / "taxa.parquet", table)
    text = lessons.unit(lessons.generator("rows").normal(size=(len(leaves), D)))
    return store.Taxa([taxon_id(path) for path in leaves], text, 20.0, "teacher", "taxon_com")


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("taxon_id", *RANKS, "common_name")),
        ("common_names", pa.map_(pa.string(), pa.string())),
        ("leaf", pa.bool_()),
        *((name, pa.int32()) for name in ("pretrain", "train", "test")),
    ]
)


def test_every_leaf_has_a_row_of_int8(tmp_path: Path) -> None:
    taxa = make_data(tmp_path, PHOTOGRAPHS)
    table = bundle.make_table(tmp_path, taxa, None)
    assert table.ids == taxa.taxon_ids and table.paths == label_space(PHOTOGRAPHS)
    assert len(table.content()) == len(PHOTOGRAPHS) * ROW
    steps = np.abs(taxa.text).max(axis=1, keepdims=True) / 127
    assert (np.abs(table.text - taxa.text) <= 0.51 * steps).all()
    assert (table.left_out, table.representatives) == (0, 0)


def test_common_names_in_every_language(tmp_path: Path) -> None:
    table = bundle.make_table(tmp_path, make_data(tmp_path, PHOTOGRAPHS), None)
    names = {path[6]: said for path, said in zip(table.paths, table.common_names, strict=True)}
    assert names["capensis"] == {"de": "capensis auf Deutsch", "en": "Cape Gannet"}
    assert names["alba"] == {"de": "alba auf Deutsch"} and names["nigra"] == {}
    assert table.languages() == ["en", "de"]
    assert table.described[-1]["rank"] == "genus"


def test_rare_species_give_way_to_one_representative_of_their_genus(tmp_path: Path) -> None:
    taxa = make_data(tmp_path, PHOTOGRAPHS)
    table = bundle.make_table(tmp_path, taxa, 5 * ROW)
    genus = (*GANNETS, None)
    # alba has fewest photographs, but alone it would only change places with its genus
    assert [path[6] for path in table.paths if path[5] == "Morus"] == [None, "bassanus", "alba", "nigra"]
    assert (table.left_out, table.representatives) == (2, 1)
    row = table.paths.index(genus)
    members = taxa.text[[taxa.taxon_ids.index(taxon_id((*GANNETS, name))) for name in ("capensis", "serrator")]]
    assert np.abs(table.text[row] - lessons.unit(members.mean(axis=0))).max() < 1 / 127
    assert table.described[row]["rank"] == "genus" and table.ids[row] == taxon_id(genus)
    assert len(table.content()) == 5 * ROW


def test_what_a_list_says_is_written_where_it_says_something(tmp_path: Path) -> None:
    counts = PHOTOGRAPHS | {(*GANNETS, "capensis"): 0, (*GANNETS, "serrator"): 0}
    taxa = make_data(tmp_path, counts)
    path = tmp_path / "index" / "taxa.parquet"
    rows = read_table(path).to_pylist()
    finest = {"capensis": "family", "serrator": "genus", "alba": "species", None: "genus"}
    for row in rows:
        row |= {"finest_rank": finest.get(row["species"]), "note": "white" if row["species"] == "alba" else None}
    schema = pa.schema([*SCHEMA, *((name, pa.string()) for name in ("finest_rank", "note"))])
    write_table(path, pa.Table.from_pylist(rows, schema))
    found = {taxon["ranks"][6]: taxon for taxon in bundle.make_table(tmp_path, taxa, None).described}
    said = {name: {key: taxon[key] for key in ("zero_shot", "finest_rank", "note") if key in taxon}
            for name, taxon in found.items()}  # fmt: skip
    assert said == {
        "bassanus": {},
        "capensis": {"zero_shot": True, "finest_rank": "family"},
        "serrator": {"zero_shot": True, "finest_rank": "genus"},
        "alba": {"note": "white"},  # a cap at its own rank says nothing
        "nigra": {},
        None: {},
    }
    # the two give way to their genus, which must not be named where one of them must not
    short = bundle.make_table(tmp_path, taxa, 5 * ROW)
    (genus,) = (taxon for taxon in short.described if taxon["ranks"][:6] == list(GANNETS) and not taxon["ranks"][6])
    assert genus["zero_shot"] and genus["finest_rank"] == "family" and "note" not in genus


def test_a_budget_below_one_row_for_each_genus_is_refused(tmp_path: Path) -> None:
    taxa = make_data(tmp_path, PHOTOGRAPHS)
    assert len(bundle.make_table(tmp_path, taxa, 3 * ROW).paths) == 3
    with pytest.raises(UserError, match="room for 2 rows, but one row per genus needs 3"):
        bundle.make_table(tmp_path, taxa, 3 * ROW - 1)


def test_taxa_that_differ_are_refused(tmp_path: Path) -> None:
    taxa = make_data(tmp_path, PHOTOGRAPHS)
    other = store.Taxa(taxa.taxon_ids[::-1], taxa.text, 20.0, "teacher", "taxon_com")
    with pytest.raises(UserError, match="run stage logits again"):
        bundle.make_table(tmp_path, other, None)


TREES = st.dictionaries(
    st.tuples(st.sampled_from("AB"), st.sampled_from("FG"), st.sampled_from("xyzw")).map(
        lambda t: (t[0], None, None, None, t[0] + t[1], t[0] + t[1] + "us", t[2])
    ),
    st.integers(0, 5),
    min_size=1,
)


@settings(deadline=None)  # the first example imports and writes tables
@given(TREES, st.integers(1, 16))
def test_whatever_the_budget(tmp_path_factory: pytest.TempPathFactory, counts: dict[TaxonPath, int], rows: int) -> None:
    folder = tmp_path_factory.mktemp("data")
    taxa = make_data(folder, counts)
    genera = {path[:6] for path in counts}
    if rows < len(genera):
        with pytest.raises(UserError):
            bundle.make_table(folder, taxa, rows * ROW)
        return
    table = bundle.make_table(folder, taxa, rows * ROW)
    assert len(table.paths) <= rows
    assert {path[:6] for path in table.paths} == genera
    assert table.paths == sorted(table.paths, key=lambda path: tuple(name or "" for name in path))
    assert table.left_out == len(counts) + table.representatives - len(table.paths)
    # every leaf finds its row, and a representative counts as often as there are species that it replaces
    leaves = label_space(counts)
    ids, none = [taxon_id(path) for path in leaves], np.empty(0)
    labels = Labels(pa.table({}), ids, leaves, [], none, [], none, none, [])
    column = columns(folder, table.described, labels)
    assert np.bincount(column).tolist() == table.stands_for.tolist()
    assert [leaf[:6] for leaf in leaves] == [table.paths[row][:6] for row in column]


def test_photographs_are_counted_by_licence_and_owner(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    rows = [(f"k{n}", "f", "t", "CC0-1.0" if n % 2 else "CC-BY-4.0", f"owner {n % 30:02d}") for n in range(90)]
    lines = ["key,file,taxon,licence,attribution", *(",".join(row) for row in rows), "k,f,t,,"]
    (tmp_path / "index" / "ATTRIBUTION.csv").write_text("\n".join(lines) + "\n")
    licences, owners = bundle.photographs(tmp_path)
    assert licences == {"CC-BY-4.0": 45, "CC0-1.0": 45, "not stated": 1}
    assert owners[0] == {"name": "owner 00", "photographs": 3}
    assert owners[-1] == {"name": "11 others", "photographs": 31} and len(owners) == 21


def test_json_is_small_and_the_same() -> None:
    assert bundle.json_bytes({"b": "é", "a": [1, None]}) == '{"a":[1,null],"b":"é"}'.encode()
    assert json.loads(bundle.json_bytes({"a": 1})) == {"a": 1}
