"""Other words for the taxa, embeddings against the tree, and retrieval: the numbers, and what they are made of."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from sklearn.metrics import top_k_accuracy_score

from bioclip_lite.evaluation import predictions, prompts
from bioclip_lite.evaluation.predictions import Extra, Predictions
from bioclip_lite.evaluation.probes import Photographs, measure
from bioclip_lite.metrics import probes as metrics
from bioclip_lite.models import teachers
from bioclip_lite.models.prompt_ensemble import OPENAI
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.report import prompts as report_prompts
from bioclip_lite.stages import evaluate
from bioclip_lite.taxa.label_space import Labels, read_labels, truth_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json, write_table
from bioclip_lite.utils.randomness import generator
from support.fake_data import save_teacher
from support.fake_evaluation import PARAMS, VARIANTS, write_answers, write_data
from support.lessons import D, unit

# ---- the tree


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_rank_correlation_is_that_of_scipy_on_repeated_pairs(data: st.DataObject) -> None:
    size = data.draw(st.integers(3, 30))
    numbers = st.lists(st.integers(0, 6), min_size=size, max_size=size)
    a, b, weight = (np.array(data.draw(numbers)) for _ in range(3))
    found = metrics.rank_correlation(a.astype(float), b.astype(float), [weight, np.ones(size)])
    for value, times in zip(found, (weight, np.ones(size, int)), strict=True):
        x, y = np.repeat(a, times), np.repeat(b, times)
        if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


def nodes(paths: list[str]) -> np.ndarray:
    """int64 [7, C] of paths written as seven letters."""
    above = [[path[: rank + 1] for path in paths] for rank in range(7)]
    return np.array([[sorted(set(names)).index(name) for name in names] for names in above])


def test_pairs_by_hand() -> None:
    # two of a genus; with the third a family; with the fourth a kingdom; the fifth stands alone
    node_of_leaf = nodes(["aaaaaaa", "aaaaaab", "aaaaaca", "abaaaaa", "baaaaaa"])
    first, second, height, there_are = metrics.pairs(np.arange(5), list("vwxyz"), node_of_leaf, 100)
    found = {frozenset((i, j)): h for i, j, h in zip(first.tolist(), second.tolist(), height.tolist(), strict=True)}
    assert found == {
        frozenset(pair): h
        for h, pairs in {1: ["01"], 2: ["02", "12"], 6: ["03", "13", "23"], 7: ["04", "14", "24", "34"]}.items()
        for pair in (map(int, text) for text in pairs)
    }
    assert there_are.tolist() == [0, 1, 2, 0, 0, 0, 3, 4]


def test_at_most_so_many_pairs_of_a_height_whatever_the_order() -> None:
    paths = ["".join(letters) for letters in itertools.product("ab", "a", "a", "ab", "ab", "ab", "ab")]
    names = [f"taxon {path}" for path in paths]
    order = np.random.default_rng(0).permutation(len(paths))
    drawn = []
    for places in (np.arange(len(paths)), order):
        here = [names[i] for i in places]
        first, second, height, there_are = metrics.pairs(places, here, nodes(paths), 9)
        assert np.bincount(height.astype(int), minlength=8).tolist() == np.minimum(there_are, 9).tolist()
        drawn.append({frozenset((here[i], here[j])) for i, j in zip(first, second, strict=True)})
    assert drawn[0] == drawn[1] and there_are.sum() == 32 * 31 / 2


# ---- retrieval


def test_the_place_of_the_nearest_of_its_own_by_hand() -> None:
    similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.4, 0.3], [0.5, 0.5, 0.5]])
    own = np.array([[0, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=bool)
    assert metrics.places_of_own(similarity, own).tolist() == [1, 0, 2]  # what is alike finds nothing


def test_recall_is_top_k_accuracy_where_one_text_is_right() -> None:
    random = np.random.default_rng(0)
    similarity, right = random.normal(size=(200, 12)), random.integers(12, size=200)
    place = metrics.places_of_own(similarity, np.eye(12, dtype=bool)[right])
    for k in (1, 5, 10):
        expected = top_k_accuracy_score(right, similarity, k=k, labels=np.arange(12))
        assert (place < k).mean() == pytest.approx(expected)


@given(st.integers(1, 6), st.data())
@settings(max_examples=30, deadline=None)
def test_chance_is_the_mean_over_all_orders(answers: int, data: st.DataObject) -> None:
    own = np.array(data.draw(st.lists(st.integers(1, answers), min_size=1, max_size=3)))
    last = 0.0
    for k in (1, 2, 5, 10):
        hits = [min(order[:count]) < k for count in own for order in itertools.permutations(range(answers))]
        found = metrics.chance(own, answers, k)
        assert found == pytest.approx(np.mean(hits)) and found >= last
        last = found


# ---- what the teacher's job writes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, an untrained teacher with a cache that knows the species, and captions."""
    folder = tmp_path_factory.mktemp("prompts")
    labels_of = write_data(folder, species=7, images=4, unseen=1, known_to_genus=1)
    save_teacher(folder)
    teacher, labels = teachers.load_teacher(folder / "teacher" / "model"), read_labels(folder)
    said = [
        text_types.caption(path, name, "com") for path, name in zip(labels.leaves, labels.common_names, strict=True)
    ]
    text = teachers.embed_texts(teacher, said)
    store.write_taxa(folder / "logits" / "taxa.safetensors", labels.ids, text, 20.0, teacher.identity, "com")
    for name in ("calibration-00000", "test-00000"):
        keys = ShardSet.of(folder / "shard" / f"{name}.tar").keys
        cached = store.encode(seen(folder, labels, keys, 0.15)[:, None], "float16")
        digests, rows = np.zeros(len(keys), np.uint64), np.zeros((len(keys), 1, 9), np.float32)
        store.write_shard(
            folder / "logits" / f"{name}.safetensors", keys, digests, rows, cached, {"teacher": teacher.identity}
        )
    keys = list(labels_of)
    texts = {kind: [text_types.caption(path, None, kind) for path in labels_of.values()] for kind in ("sci", "com")}
    write_table(folder / "caption" / "test-00000.parquet", pa.table({"key": keys, **texts}))
    described = [f"a thing on {'grass' if number % 2 else 'sand'} {number // 4}." for number in range(len(keys))]
    told = {"key": keys, "coca_0": [*described[:-1], None], "coca_1": [*described[:-3], "blurred.", None, None]}
    write_table(folder / "caption" / "coca" / "test-00000.parquet", pa.table(told))
    return folder


def seen(folder: Path, labels: Labels, keys: list[str], noise: float, only: int = 0) -> np.ndarray:
    """Embeddings of photographs near the text of their taxon, of a genus' near its first species; float32 [n, D]."""
    text = store.read_taxa(folder / "logits" / "taxa.safetensors").text
    samples = read_table(folder / "index" / "samples.parquet").to_pylist()
    path_of = {row["key"]: tuple(row[rank] for rank in RANKS) for row in samples}
    own = [next(i for i, leaf in enumerate(labels.leaves) if leaf[:6] == path_of[key][:6]
                and path_of[key][6] in (leaf[6], None)) for key in keys]  # fmt: skip
    spread = np.array([generator("noise", only, key).normal(size=D) for key in keys])
    return unit(text[own] + noise * spread)


def asked(retrieval: list[str], taxa: int = 100, types: tuple[str, ...] = ("sci", "com", "taxon")) -> Any:
    return {
        **PARAMS,
        "prompts": {"types": list(types), "templates": ["plain", "openai"], "taxa": taxa},
        "retrieval": retrieval,
    }


def test_prompts_are_what_the_text_tower_says(data: Path) -> None:
    labels, teacher = read_labels(data), teachers.load_teacher(data / "teacher" / "model")
    found = prompts.texts_of(asked([]), data, "test", labels)
    assert list(found) == ["prompts"]
    values, about = found["prompts"]
    names = [tuple(name) for name in about["prompts"]]
    assert names[0] == ("com", "plain") and sorted(names) == sorted(
        itertools.product(("sci", "com", "taxon"), ("plain", "openai"))
    )
    assert about["taxon_ids"] == labels.ids and about["unnamed"] == 0
    np.testing.assert_array_equal(values[0], store.read_taxa(data / "logits" / "taxa.safetensors").text)
    genus, epithet = labels.leaves[3][5:]
    plain = teachers.embed_texts(teacher, [f"a photo of {genus} {epithet}."])[0]
    np.testing.assert_allclose(values[names.index(("sci", "plain")), 3], plain, atol=1e-5)
    each = teachers.embed_texts(teacher, [template(f"{genus} {epithet}") for template in OPENAI])
    np.testing.assert_allclose(
        values[names.index(("sci", "openai")), 3], unit(each.mean(axis=0, keepdims=True))[0], atol=1e-5
    )


def test_taxa_are_drawn_by_name_and_those_of_photographs_come_first(data: Path) -> None:
    labels = read_labels(data)
    assert prompts.drawn_leaves(labels, "test", 100) == list(range(len(labels.ids)))
    counts = [1 if taxon in labels.ids[2:5] else 0 for taxon in labels.taxa["taxon_id"].to_pylist()]
    column = labels.taxa.schema.get_field_index("test")
    few = replace(labels, taxa=labels.taxa.set_column(column, "test", pa.array(counts)))
    two, three, four = (prompts.drawn_leaves(few, "test", count) for count in (2, 3, 4))
    assert set(two) < {2, 3, 4} == set(three) and set(three) < set(four)
    assert all(found == sorted(found) for found in (two, three, four))
    values, about = prompts.texts_of(asked([], taxa=3, types=()), data, "test", few)["prompts"]
    assert about["taxon_ids"] == [few.ids[leaf] for leaf in three] and values.shape == (1, 3, D)


def test_equal_captions_are_one_and_belong_to_all_their_photographs(data: Path) -> None:
    found = prompts.texts_of(asked(["sci", "coca"]), data, "test", read_labels(data))
    table = read_table(data / "caption" / "test-00000.parquet").to_pylist()
    about = found["captions sci"].about
    assert about["keys"] == sorted(row["key"] for row in table) and about["without"] == 0
    said = {row["key"]: row["sci"] for row in table}
    text_of: dict[int, set[str]] = {}
    for key, (number,) in zip(about["keys"], about["captions"], strict=True):
        text_of.setdefault(number, set()).add(said[key])
    assert len(text_of) == len(found["captions sci"].values) == 8  # seven species and a genus
    assert all(len(texts) == 1 for texts in text_of.values())
    about = found["captions coca"].about
    assert about["without"] == 1 and len(about["keys"]) == len(table) - 1
    counts = sorted(map(len, about["captions"]))
    assert counts[-1] == 2 and counts.count(2) == 1  # the same twice is said once
    assert found["captions coca"].values.shape == (1 + max(n for numbers in about["captions"] for n in numbers), D)


def test_what_does_not_fit_is_named(data: Path, tmp_path: Path) -> None:
    labels = read_labels(data)
    with pytest.raises(UserError, match=r"caption/nobody/test-00000\.parquet is missing"):
        prompts.texts_of(asked(["nobody"]), data, "test", labels)
    (tmp_path / "logits").mkdir()
    for name in ("teacher", "caption", "shard"):
        (tmp_path / name).symlink_to(data / name)
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    store.write_taxa(tmp_path / "logits" / "taxa.safetensors", labels.ids, taxa.text, 20.0, "f" * 64, "com")
    with pytest.raises(UserError, match=r"made by teacher ffffffffffff, but data/teacher/model holds .*run stage logi"):
        prompts.texts_of(asked([]), tmp_path, "test", labels)


def test_captions_of_other_photographs_are_refused(data: Path, tmp_path: Path) -> None:
    for name in ("teacher", "logits", "shard"):
        (tmp_path / name).symlink_to(data / name)
    table = read_table(data / "caption" / "test-00000.parquet")
    write_table(tmp_path / "caption" / "test-00000.parquet", table.slice(1))
    with pytest.raises(UserError, match="list different photographs; run stage caption again"):
        prompts.texts_of(asked(["sci"], types=()), tmp_path, "test", read_labels(data))


def test_captions_that_say_nothing_are_no_captions(data: Path, tmp_path: Path) -> None:
    for name in ("teacher", "logits", "shard"):
        (tmp_path / name).symlink_to(data / name)
    table = read_table(data / "caption" / "test-00000.parquet")
    silent = pa.array([None] * table.num_rows, pa.string())
    write_table(tmp_path / "caption" / "test-00000.parquet", table.set_column(1, "sci", silent))
    with pytest.raises(UserError, match=r"evaluate\.retrieval names sci, but"):
        prompts.texts_of(asked(["sci"], types=()), tmp_path, "test", read_labels(data))


# ---- what the report makes of it


@pytest.fixture(scope="module")
def found(data: Path) -> dict[str, Any]:
    """metrics.json of a teacher as the stage runs it, a student that is worse, and the others without embeddings."""
    evaluate.run(asked(["sci", "coca"], taxa=100), data, "teacher")
    predict(data, "student", 0.2)
    predict(data, "tfjs", 0.25)
    labels, folder, keys = read_labels(data), data / "evaluate" / "predictions", answered(data)
    for variant in VARIANTS:
        if not (folder / f"{variant}.json").exists():
            logits = generator(variant).normal(size=(len(keys), len(labels.ids))).astype(np.float32)
            write_answers(data, variant, keys, logits, None, {})
    evaluate.run(asked([]), data, "report")
    metrics: dict[str, Any] = read_json(data / "evaluate" / "metrics.json")
    return metrics


def answered(data: Path) -> list[str]:
    """Keys of all photographs that the teacher answered."""
    found = predictions.read(data / "evaluate" / "predictions", ["teacher"], ["test-00000"])["teacher"]
    return [*found.calibration_keys(), *found.keys()]


def predict(data: Path, variant: str, noise: float, order: np.ndarray | None = None) -> None:
    labels, keys = read_labels(data), answered(data)
    keys = keys if order is None else [keys[place] for place in order]
    embeddings = seen(data, labels, keys, noise, only=1)
    logits = 20 * embeddings @ store.read_taxa(data / "logits" / "taxa.safetensors").text.T
    write_answers(data, variant, keys, logits, embeddings, {})


def test_the_pipelines_own_prompt_gives_the_accuracy_of_the_pipeline(found: dict[str, Any]) -> None:
    section = found["prompts"]
    assert section["own"] == {"type": "com", "templates": "plain"}
    assert set(section["variants"]) == {"teacher", "student", "tfjs"}
    for variant, rows in section["variants"].items():
        own, top1 = rows["com"]["plain"], found["variants"][variant]["top1"]
        assert own["top1"] == top1
        assert own["difference_to_own"]["value"] == 0 and own["difference_to_own"]["ci95"] == [0, 0]
        other = rows["sci"]["plain"]
        difference = other["top1"]["value"] - top1["value"]
        assert other["difference_to_own"]["value"] == pytest.approx(difference, abs=2e-6)
    assert (section["n_images"], section["n_left_out"], section["n_classes"], section["label_space"]) == (28, 1, 7, 7)
    teacher = section["variants"]["teacher"]
    assert {(kind, how) for kind in teacher for how in teacher[kind]} == set(
        itertools.product(("sci", "com", "taxon"), ("plain", "openai"))
    )
    assert 1 / 7 < teacher["com"]["plain"]["top1"]["value"] < 1  # or the test above compared nothing


def test_the_teachers_embeddings_are_those_of_its_cache(data: Path, found: dict[str, Any]) -> None:
    on = predictions.read(data / "evaluate" / "predictions", ["teacher"], ["test-00000"])["teacher"]
    shard = store.read_shard(data / "logits" / "test-00000.safetensors")
    for places, embeddings in predictions.placed(shard.keys, on.embeddings()):
        np.testing.assert_allclose(embeddings, unit(shard.target(slice(None), 0)[places]), atol=1e-3)


def test_every_section_says_what_it_is_about(found: dict[str, Any]) -> None:
    retrieval = found["retrieval"]
    assert set(retrieval) == {"sci", "coca"}
    sections = [found["prompts"], found["taxonomy"], *retrieval.values()]
    assert len({section["protocol"]["id"] for section in sections}) == 4
    for section in sections:
        assert section["n_images"] > 0 and section["n_classes"] > 0
    for section in retrieval.values():
        for row in section["variants"].values():
            values = [[row[way][f"recall_at_{k}"]["value"] for k in (1, 5, 10)] for way in row]
            assert all(a <= b <= c for a, b, c in values)
            assert row["image_to_text"]["recall_at_1"]["n_queries"] == section["n_images"]
            assert row["text_to_image"]["recall_at_1"]["n_queries"] == section["n_texts"]
    by_name = retrieval["sci"]["variants"]["teacher"]["text_to_image"]
    assert by_name["recall_at_10"]["value"] > retrieval["sci"]["chance"]["text_to_image"]["recall_at_10"] / 2


def test_the_order_of_photographs_changes_nothing(data: Path, found: dict[str, Any]) -> None:
    keys = answered(data)
    predict(data, "student", 0.2, np.random.default_rng(1).permutation(len(keys)))
    evaluate.run(asked([]), data, "report")
    again = read_json(data / "evaluate" / "metrics.json")
    for name in ("prompts", "taxonomy", "retrieval"):
        assert again[name] == found[name]


def test_the_report_says_the_same_numbers(data: Path, found: dict[str, Any]) -> None:
    sections = report_prompts.sections(found)
    whole, page = (data / "evaluate" / "report.html").read_text(), "".join(section.body for section in sections)
    assert len(sections) == 4 and all(f"<h2>{section.title}</h2>" in whole for section in sections)
    own = found["prompts"]["variants"]["tfjs"]["com"]["plain"]["top1"]["value"]
    assert f"<td>{100 * own:.1f}<small>" in page and "the pipeline&#39;s" in page
    assert f"<td>{found['taxonomy']['variants']['tfjs']['spearman']['value']:.2f}" in page
    recall = found["retrieval"]["coca"]["variants"]["tfjs"]["text_to_image"]["recall_at_5"]["value"]
    assert f"<td>{100 * recall:.1f}<small>" in page and "Retrieval by text: coca" in [
        section.title for section in sections
    ]
    assert "1 photograph without a text left out" in page
    assert report_prompts.sections({"protocol": {}, "variants": {}}) == []


# ---- laws, on embeddings made for them


def space(paths: list[str], photographs: int) -> tuple[Labels, Photographs]:
    """A label space of species written as seven letters, and photographs of each, two to an observation."""
    leaves: list[TaxonPath] = [tuple(path) for path in paths]
    taxa = pa.table({"taxon_id": paths, **{rank: list(column) for rank, column in zip(RANKS, zip(*paths, strict=True),
                                                                                     strict=True)}})  # fmt: skip
    above = [sorted({leaf[: rank + 1] for leaf in leaves}) for rank in range(7)]
    zero_shot, finest = np.zeros(len(paths), bool), np.full(len(paths), 6, np.int8)
    none: list[str | None] = [None] * len(paths)
    labels = Labels(taxa, paths, leaves, none, nodes(paths), above, zero_shot, finest, none)
    truth = truth_of([path for path in paths for _ in range(photographs)], labels)
    count = len(truth.leaf)
    return labels, Photographs([f"photograph {i:03d}" for i in range(count)], truth, np.arange(count) // 2)


def on_disk(
    folder: Path, photographs: Photographs, labels: Labels, embeddings: np.ndarray, **extras: Extra
) -> Predictions:
    predictions.write(folder / "teacher.safetensors", [], "", {"embeddings": embeddings[:0]}, extras)
    columns = {"embeddings": embeddings.astype(np.float16)}
    predictions.write(folder / "teacher" / "test-00000.safetensors", photographs.keys, "", columns)
    write_json(folder / "teacher.json", {})
    return predictions.read(folder, ["teacher"], ["test-00000"])["teacher"]


def tree_like(paths: list[str]) -> np.ndarray:
    """Unit vectors, the nearer the more ranks two paths share."""
    parts = [sorted({path[: rank + 1] for path in paths}) for rank in range(7)]
    return unit(np.concatenate([[[path.startswith(node) for node in nodes] for path in paths] for nodes in parts], 1))


def test_embeddings_like_the_tree_correlate_with_it_and_upside_down_against_it(tmp_path: Path) -> None:
    paths = ["".join(letters) for letters in itertools.product("ab", "a", "ab", "a", "ab", "a", "ab")]
    labels, photographs = space(paths, 2)
    text = tree_like(paths)
    names: dict[str, Any] = {"prompts": [["sci", "plain"]], "taxon_ids": paths, "unnamed": 16}
    random = unit(generator("elsewhere").normal(size=text.shape))
    for folder, embeddings, low, high in (("like", text, 0.999, 1.0), ("random", random, -0.5, 0.5)):
        on = on_disk(tmp_path / folder, photographs, labels, embeddings[photographs.truth.leaf],
                     prompts=Extra(text[None], names))  # fmt: skip
        section = measure({"teacher": on}, photographs, labels, 50, 0)
        assert "prompts" not in section and "retrieval" not in section  # nothing was asked
        found = section["taxonomy"]
        assert low <= found["variants"]["teacher"]["spearman"]["value"] <= high
        assert found["texts"]["sci"]["plain"]["spearman"]["value"] > 0.999
        assert {at: row["n_pairs"] for at, row in found["texts"]["sci"]["plain"]["by_height"].items()} == {
            "1": 8, "3": 16, "5": 32, "7": 64
        }  # fmt: skip
    distances = [row["cosine_distance"] for row in found["texts"]["sci"]["plain"]["by_height"].values()]
    assert distances == pytest.approx([1 / 7, 3 / 7, 5 / 7, 1])


def test_captions_of_their_own_are_found(tmp_path: Path) -> None:
    paths = ["aaaaaaa", "aaaaaab", "baaaaaa"]
    labels, photographs = space(paths, 4)
    embeddings = np.eye(12, dtype=np.float32)
    about = {"keys": photographs.keys, "captions": [[i] for i in range(12)], "without": 0}
    names = {"prompts": [["sci", "plain"]], "taxon_ids": paths, "unnamed": 3}
    extras = {"prompts": Extra(np.eye(12, dtype=np.float32)[None, :3], names)}
    shifted = np.roll(embeddings, 1, axis=0)
    for folder, texts, expected in (("own", embeddings, [1, 1, 1]), ("others", shifted, [0, 0, 0])):
        on = on_disk(tmp_path / folder, photographs, labels, embeddings, **extras,
                     **{"captions coca": Extra(texts, about)})  # fmt: skip
        found = measure({"teacher": on}, photographs, labels, 50, 0)["retrieval"]["coca"]
        for way in ("image_to_text", "text_to_image"):
            row = found["variants"]["teacher"][way]
            assert [row[f"recall_at_{k}"]["value"] for k in (1, 5, 10)] == expected
            assert found["chance"][way]["recall_at_5"] == pytest.approx(5 / 12)
        assert (found["n_images"], found["n_texts"], found["n_classes"]) == (12, 12, 3)


def test_one_species_has_no_pairs(tmp_path: Path) -> None:
    labels, photographs = space(["aaaaaaa"], 1)
    names = {"prompts": [["sci", "plain"], ["com", "plain"]], "taxon_ids": ["aaaaaaa"], "unnamed": 1}
    text = np.ones((2, 1, 1), np.float32)
    on = on_disk(tmp_path, photographs, labels, np.ones((1, 1)), prompts=Extra(text, names))
    found = measure({"teacher": on}, photographs, labels, 50, 0)
    assert set(found) == {"prompts"}
    top1 = found["prompts"]["variants"]["teacher"]["com"]["plain"]["top1"]
    assert top1 == {"value": 1.0, "ci95": None, "n_images": 1, "n_classes": 1}


# ---- predictions


def test_embeddings_and_further_tensors_are_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(5, 7)).astype(np.float16)
    keys, extra = [f"k{i}" for i in range(5)], Extra(random.normal(size=(2, 3, 3)).astype(np.float32), {"ü": [1]})
    predictions.write(tmp_path / "teacher.safetensors", keys, "", {"embeddings": embeddings}, {"more": extra})
    write_json(tmp_path / "teacher.json", {})
    content = load_file(tmp_path / "teacher.safetensors")
    np.testing.assert_array_equal(content["embeddings"], embeddings)
    np.testing.assert_array_equal(content["more"], extra.values)
    on = predictions.read(tmp_path, ["teacher"], [])["teacher"]
    assert on.has_embeddings and on.extra("less") is None
    again = on.extra("more")
    assert again is not None and again.about == {"ü": [1]}
    wanted = ["k4", "nobody", "k1"]
    ((places, rows),) = predictions.placed(wanted, on.embeddings())
    assert [wanted[place] for place in places] == ["k1", "k4"]
    np.testing.assert_array_equal(rows, embeddings[[1, 4]].astype(np.float32))


def test_variants_of_their_own_space_have_no_embeddings(tmp_path: Path) -> None:
    predictions.write(tmp_path / "control.safetensors", ["a"], "", {"share": np.zeros((1, 7))})
    write_json(tmp_path / "control.json", {})
    on = predictions.read(tmp_path, ["control"], [])["control"]
    assert not on.has_embeddings and not list(on.embeddings())


def test_embeddings_that_are_no_numbers_are_refused(data: Path) -> None:
    keys, labels = answered(data), read_labels(data)
    bad = np.ones((len(keys), 2), np.float32)
    bad[3, 1] = np.nan
    with pytest.raises(UserError, match=f"the embeddings of {keys[3]} are not finite"):
        write_answers(data, "student", keys, np.zeros((len(keys), len(labels.ids)), np.float32), bad, {})
