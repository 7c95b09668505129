"""Tables in parts: which rows are neighbours in one file, and what answers lose by it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bioclip_lite.indexing import placing
from bioclip_lite.models import teachers
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web import bundle, manifest, parts, prior_fitting, relisting
from bioclip_lite.web.parent import Parent, known_of_bundle, read_parent
from support import fake_bundles, keys, lessons

D = 8
NOTHING = bundle.Remark(False, len(RANKS) - 1, None)


def paths_of(seed: int) -> list[TaxonPath]:
    """60 species at most, some in no order or no family."""
    random = np.random.default_rng(seed)
    drawn = random.integers([2, 3, 3, 3, 9], size=(60, 5)).tolist()
    return sorted(
        {
            (f"K{k}", "p", "c", f"O{k}{o}" if o else None, f"F{k}{o}{f}" if f else None, f"G{k}{o}{f}{g}", f"s{s}")
            for k, o, f, g, s in drawn
        },
        key=lambda path: tuple(name or "" for name in path),
    )


def table_of(seed: int) -> bundle.Table:
    paths = paths_of(seed)
    vectors = lessons.unit(np.random.default_rng(seed).normal(size=(len(paths), D))).astype(np.float32)
    return bundle.table_of(dict(zip(paths, vectors, strict=True)), {}, dict.fromkeys(paths, NOTHING), {}, None)


def divided(table: bundle.Table) -> parts.Split:
    found = parts.split(table, 1)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [1, 4, 15, 1000])
def test_the_clades_are_the_highest_that_fit_and_together_the_table(seed: int, most: int) -> None:
    paths = paths_of(seed)
    clades, start = list(parts.clades_of(paths, 0, most)), 0
    for path, rows in clades:
        below, start = paths[start : start + rows], start + rows
        if rows == 1:
            assert below == [path]
            continue
        shared = next(n for n in range(len(RANKS)) if len({one[n] for one in below}) > 1)
        assert path == (*below[0][:shared], *[None] * (len(RANKS) - shared))
        assert rows <= most or path[RANKS.index("genus")]
        around = [one for one in paths if one[: shared - 1] == path[: shared - 1]]
        assert len(around) > most or len(around) == rows or shared == 1  # the clade above had to be divided
    assert start == len(paths)
    assert len({path for path, _ in clades}) == len(clades)


def test_a_table_within_the_limit_stays_one_file(tmp_path: Path) -> None:
    table = table_of(0)
    size = len(table.content())
    assert parts.split(table, size) is None and parts.split(table, None) is None
    assert parts.split(table, size - 1) is not None
    written = parts.write(tmp_path, table, None)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [table.content()]
    rows = {"rows": len(table.paths), "left_out": 0, "representatives": 0}
    file = f"taxa-{bundle.sha256(table.content())[:8]}.bin"
    assert written == {"format": 2, "taxa": table.described, "text": {"file": file, **rows}}
    genus = [path for path in table.paths if path[:6] == table.paths[0][:6]]
    assert len(genus) > 1 and list(parts.clades_of(genus, 0, 1)) == [((*genus[0][:6], None), len(genus))]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_was_written(tmp_path: Path, seed: int) -> None:
    table, split = table_of(seed), divided(table_of(seed))
    about = parts.write(tmp_path, table, split)
    about["text"]["columns"] = D
    assert about["format"] == 3 and len(about["taxa"]) == len(split.clades) < len(table.paths)
    assert {file.name for file in tmp_path.iterdir()} == set(parts.files(about))
    shipped = parts.read(tmp_path, about)
    assert shipped.entries == table.described
    assert (shipped.scales == table.scales).all() and (shipped.integers == table.integers).all()
    assert shipped.split is not None and shipped.split.clades == split.clades
    assert sum(entry.get("stands_for", 1) for entry in about["taxa"]) == len(table.paths)


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_those_of_the_whole_table_for_chosen_clades_and_their_clades_for_others(seed: int) -> None:
    table, split = table_of(seed), divided(table_of(seed))
    units = lessons.unit(np.random.default_rng(9).normal(size=(30, D))).astype(np.float32)
    whole = parts.answering(table.text, None, 20.0)(units)
    assert (parts.answering(table.text, split, 20.0)(units) == whole).all()  # all clades are chosen
    some = parts.answering(table.text, replace(split, chosen=3), 20.0)(units)
    clade = np.repeat(np.arange(len(split.clades)), split.sizes)
    of_clades = 20.0 * (units @ (split.scales[:, None] * split.integers).T)
    for photograph in range(30):
        nearest = np.argsort(-of_clades[photograph])[:3]
        chosen = np.isin(clade, nearest)
        assert (some[photograph, chosen] == whole[photograph, chosen]).all()
        assert np.allclose(some[photograph, ~chosen], of_clades[photograph, clade[~chosen]], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_as_few_clades_are_chosen_as_give_the_best_taxon_of_the_whole_table(seed: int) -> None:
    table, split = table_of(seed), divided(table_of(seed))
    units = lessons.unit(np.random.default_rng(4).normal(size=(300, D))).astype(np.float32)
    best = parts.answering(table.text, None, 20.0)(units).argmax(axis=1)

    def same(chosen: int) -> float:
        found = parts.answering(table.text, replace(split, chosen=chosen), 20.0)(units)
        # A clade that is not chosen and has the largest logit itself has no best taxon.
        alone = (found == found.max(axis=1, keepdims=True)).sum(axis=1) == 1
        return float(((found.argmax(axis=1) == best) & alone).mean())

    chosen, measured = parts.choose(table, split, 20.0, units)
    assert chosen is not None and measured is not None
    assert 1 < chosen.chosen < len(split.clades)
    assert same(chosen.chosen) == measured["same_taxon"] >= parts.SAME > same(chosen.chosen - 1)
    assert f"{chosen.chosen} answer to a photograph" in parts.sentence(measured)


# Bundles in parts


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> teachers.Teacher:
    return fake_bundles.make_teacher(tmp_path_factory.mktemp("data"))


def relisted(parent: Parent, out: Path, whole_table: int | None, key: Path | None = None) -> dict[str, Any]:
    """Write the bundle of all taxa of another; its bundle.json."""
    (species := out.with_suffix(".txt")).write_text("Animalia\nPlantae\n")
    known = known_of_bundle(parent)
    limits = relisting.Limits(None, whole_table)
    made = relisting.relist(parent, known, placing.read(species, known.names), none_asked, None, limits)
    out.mkdir()
    return relisting.write(
        out, parent, made, species, manifest.read_private_key(str(key) if key else None, parent.folder)
    )


def none_asked() -> teachers.Teacher:
    raise AssertionError("no row had to be embedded")


def test_a_bundle_in_parts_and_one_made_from_it_hold_the_same_rows(tmp_path: Path, teacher: teachers.Teacher) -> None:
    fake_bundles.make_bundle(tmp_path / "whole", teacher)
    whole = read_parent(tmp_path / "whole")
    about = relisted(whole, tmp_path / "parts", 1)
    assert about["format"] == 3
    # Nobody measured how many clades would do, so all answer.
    counts = {"chosen": 3, "taxa": 5, "zero_shot": 0}
    assert {name: about["text"]["parts"][name] for name in counts} == counts
    assert [part and part["rows"] for part in about["text"]["parts"]["files"]] == [2, None, 2]
    assert set(parts.files(about)) < set(about["files"])
    assert about["provenance"]["taxonomy_sha256"] == whole.about["provenance"]["taxonomy_sha256"]
    found = read_parent(tmp_path / "parts")
    assert (found.integers == whole.integers).all() and (found.scales == whole.scales).all()
    assert found.entries == whole.entries
    again = relisted(found, tmp_path / "again", None)
    assert again["files"] == whole.about["files"] and again["taxa"] == whole.about["taxa"]
    assert again["format"] == 2 and "parts" not in again["text"]


def test_one_changed_byte_in_a_part_is_refused(tmp_path: Path, teacher: teachers.Teacher) -> None:
    private, public = keys.make_pair(tmp_path / "keys")
    fake_bundles.make_bundle(tmp_path / "whole", teacher)
    about = relisted(read_parent(tmp_path / "whole"), tmp_path / "parts", 1, private)
    names = manifest.verify(tmp_path / "parts", manifest.read_public_key(public))
    assert set(parts.files(about)) < set(names)
    part = tmp_path / "parts" / parts.files(about)[-1]
    content = part.read_bytes()
    part.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(UserError, match=rf"{part.name} is damaged"):
        read_parent(tmp_path / "parts")
    with pytest.raises(UserError, match=rf"{part.name} is damaged"):
        manifest.verify(tmp_path / "parts", manifest.read_public_key(public))


def test_a_prior_takes_no_bundle_in_parts(tmp_path: Path, teacher: teachers.Teacher) -> None:
    fake_bundles.make_bundle(tmp_path / "whole", teacher)
    (tmp_path / "convert").mkdir()
    relisted(read_parent(tmp_path / "whole"), tmp_path / "convert" / "tfjs", 1)
    with pytest.raises(UserError, match=r"convert\.whole_table to null"):
        prior_fitting.write({"prior": "gbif.csv", "sign_with": None}, tmp_path)
