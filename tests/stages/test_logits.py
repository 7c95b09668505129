import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import OPENAI_IMAGENET_TEMPLATES

from bioclip_lite.commands import verify_cache
from bioclip_lite.models import teachers
from bioclip_lite.photographs import views
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.stages import logits
from bioclip_lite.taxa import label_space, taxonomy
from bioclip_lite.teacher_cache import logit_scale, store, synthetic_captions
from bioclip_lite.texts import text_types
from bioclip_lite.training import losses
from bioclip_lite.utils.code_fingerprint import PACKAGE, closure, file_meaning, meaning
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, write_json, write_table
from bioclip_lite.utils.randomness import generator
from support import checkout, lessons
from support.fake_data import save_teacher
from support.photographs import encoded, picture

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

PARAMS = lessons.VIEWS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = lessons.make_data(tmp_path_factory.mktemp("data"))
    save_teacher(folder)
    return folder


@pytest.fixture
def own(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder to change, "data" in the current folder."""
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("logits"))
    monkeypatch.chdir(tmp_path)
    return Path("data")


def test_every_view_is_what_the_teacher_says_of_its_replay(data: Path) -> None:
    logits.run(PARAMS, data, "train-00000")
    shard = store.read_shard(data / "logits" / "train-00000.safetensors")
    images = ShardSet.of(data / "shard" / "train-00000.tar")
    teacher = teachers.load_teacher(data / "teacher" / "model")
    assert shard.keys == images.keys
    assert shard.embeddings.shape == (len(images), 3, lessons.D)
    assert shard.embeddings.dtype == np.float16
    assert shard.views.shape == (len(images), 3, views.columns(2))
    assert shard.identity["teacher"] == teacher.identity
    assert shard.identity["views"] == views.VERSION
    assert shard.images.tolist() == [store.image_digest(images.jpeg(i)) for i in range(len(images))]
    assert not shard.views[:, 0].any()
    for i in (0, len(images) - 1):
        pixels = [views.reapply(images.image(i), row, teacher.preprocess) for row in shard.views[i]]
        expected = teachers.embed_images(teacher.model, torch.from_numpy(np.stack(pixels))).numpy()
        cosine = (expected * lessons.unit(shard.target(i, slice(None)))).sum(-1)
        assert cosine.min() > 0.9999
    np.testing.assert_array_equal(pixels[0], preprocess(images.image(i), teacher.preprocess))


def test_all_jobs_together_are_the_jobs_alone(data: Path) -> None:
    logits.run(PARAMS, data)
    folder = data / "logits"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {
        f"{name}.safetensors"
        for name in ("taxa", "train-00000", "train-00001", "val-00000", "calibration-00000", "test-00000")
    }
    assert store.read_shard(folder / "test-00000.safetensors").views.shape[1] == 1
    sizes = (data / "shard" / "sizes.json").read_bytes()
    (data / "shard" / "sizes.json").unlink()  # a cluster job has one shard, not the list
    try:
        for name in first:
            logits.run(PARAMS, data, name.removesuffix(".safetensors"))
    finally:
        (data / "shard" / "sizes.json").write_bytes(sizes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_photographs_without_labels_are_cached_as_those_of_train(own: Path) -> None:
    samples = [(f"unlabelled-{n}", encoded(picture("unlabelled", n)), {"taxon_id": None}) for n in range(3)]
    sizes = read_json(own / "shard" / "sizes.json")
    sizes["unlabelled-00000.tar"] = write_shard(own / "shard" / "unlabelled-00000.tar", samples)
    write_json(own / "shard" / "sizes.json", sizes)
    logits.run(PARAMS, own)
    shard = store.read_shard(own / "logits" / "unlabelled-00000.safetensors")
    assert shard.embeddings.shape == (3, PARAMS["views"], lessons.D)
    assert {finding.shard for finding in verify_cache.verify(own, 10_000)} >= {"unlabelled-00000", "train-00000"}


def test_the_taxon_matrix_has_a_row_per_leaf(data: Path) -> None:
    logits.run(PARAMS, data, "taxa")
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    assert taxa.taxon_ids == lessons.IDS[:5]
    teacher = teachers.load_teacher(data / "teacher" / "model")
    assert taxa.logit_scale == teacher.logit_scale
    path = " ".join(name for name in lessons.PATHS[3] if name)
    expected = teachers.embed_texts(teacher, [f"a photo of {path} with common name Morus alba."])
    np.testing.assert_allclose(taxa.text[3:4], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(taxa.text, axis=1), 1, atol=1e-5)


def test_a_list_too_long_for_a_bundle_is_refused_before_it_is_embedded(
    data: Path, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 5 * (lessons.D + 4)
    embedded: list[str] = []
    embed = logits.embed_prompts

    def recorded(teacher: Any, prompts: list[str], openai: bool) -> np.ndarray:
        embedded.extend(prompts)
        return embed(teacher, prompts, openai)

    monkeypatch.setattr(logits, "embed_prompts", recorded)
    with pytest.raises(
        UserError, match=rf"5 taxa would take .* \(0.0 MB, 4 taxa\).* set convert.taxa_bytes to {size} "
    ):
        logits.run({**PARAMS, "taxa_bytes": size - 1}, own, "taxa")
    assert not embedded and not (own / "logits" / "taxa.safetensors").exists()
    for allowed in ({"taxa_bytes": size}, {"taxa_bytes": None}, {"taxa_bytes": size - 1, "over_budget": "genera"}):
        logits.run({**PARAMS, **allowed}, data, "taxa")  # type: ignore[typeddict-item]
    assert "the table of 5 taxa in the web bundle will take 0.00 MB" in capsys.readouterr().out


def test_a_job_without_a_shard_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="train-00009"):
        logits.run(PARAMS, data, "train-00009")


def test_a_shard_may_be_empty(own: Path) -> None:
    write_shard(own / "shard" / "train-00000.tar", [])
    logits.run(PARAMS, own, "train-00000")
    shard = store.read_shard(own / "logits" / "train-00000.safetensors")
    assert (shard.keys, shard.embeddings.shape) == ([], (0, 3, lessons.D))


def test_80_templates_are_averaged_as_by_hand(data: Path) -> None:
    logits.run({**PARAMS, "templates": "openai"}, data, "taxa")
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    logits.run(PARAMS, data, "taxa")
    plain = store.read_taxa(data / "logits" / "taxa.safetensors")
    assert (plain.prompt, taxa.prompt) == ("taxon_com", "taxon_com in 80 templates")
    assert np.abs(plain.text - taxa.text).max() > 0.01

    teacher = teachers.load_teacher(data / "teacher" / "model")
    path = " ".join(name for name in lessons.PATHS[3] if name)
    texts = [template(f"{path} with common name Morus alba") for template in OPENAI_IMAGENET_TEMPLATES]
    assert len(texts) == 80 and texts[0] == f"a bad photo of a {path} with common name Morus alba."
    with torch.inference_mode():
        each = teacher.model.encode_text(teacher.tokenizer(texts)).double().numpy()
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.mean(0)
    np.testing.assert_allclose(taxa.text[3], mean / np.linalg.norm(mean), atol=1e-6)


# ------------------------------------------------------------------------------------------ further teachers


def test_another_teacher_answers_to_the_same_views(own: Path) -> None:
    save_teacher(own, "second", size=40, width=24)
    logits.run(PARAMS, own)
    found = {path.relative_to(own / "logits").as_posix(): path.read_bytes() for path in own.glob("logits/**/*.*")}
    assert {name for name in found if "/" not in name} == {
        name.removeprefix("second/") for name in found if "/" in name
    }
    first = store.read_shard(own / "logits" / "train-00000.safetensors")
    second = store.read_shard(own / "logits" / "second" / "train-00000.safetensors")
    np.testing.assert_array_equal(first.views, second.views)
    assert (first.keys, first.images.tolist()) == (second.keys, second.images.tolist())
    teacher, images = teachers.load_teacher(own / "teacher" / "second"), ShardSet.of(own / "shard" / "train-00000.tar")
    assert second.identity["teacher"] == teacher.identity != first.identity["teacher"]
    assert second.embeddings.shape[2] == 24 != first.embeddings.shape[2]
    pixels = torch.from_numpy(
        np.stack([views.reapply(images.image(3), row, teacher.preprocess) for row in second.views[3]])
    )
    assert pixels.shape[-1] == 40
    expected = teachers.embed_images(teacher.model, pixels).numpy()
    np.testing.assert_allclose(second.target(3, slice(None)), expected, atol=2e-3)
    assert store.read_taxa(own / "logits" / "second" / "taxa.safetensors").teacher == teacher.identity

    shutil.rmtree(own / "logits" / "second")
    for name in ("val-00000", "taxa"):
        logits.run(PARAMS, own, f"second/{name}")
    again = {path.name: path.read_bytes() for path in (own / "logits" / "second").iterdir()}
    assert again == {name: found[f"second/{name}"] for name in ("val-00000.safetensors", "taxa.safetensors")}
    with pytest.raises(UserError, match="teacher/third"):
        logits.run(PARAMS, own, "third/taxa")


def test_the_taxa_in_every_text_type(data: Path) -> None:
    path = data / "caption" / "val-00000.parquet"
    table = read_table(path)
    try:
        write_table(path, table.replace_schema_metadata({"lit_columns": '["genus", "species"]'}))
        logits.run(PARAMS, data, "texts")
    finally:
        write_table(path, table)
    texts = store.read_texts(data / "logits" / "texts.safetensors")
    teacher = teachers.load_teacher(data / "teacher" / "model")
    assert (texts.types, texts.taxon_ids) == (list(text_types.TYPES), lessons.IDS)  # the genus as well
    assert (texts.teacher, texts.text.dtype) == (teacher.identity, np.float16)
    for kind, taxon in ((0, 0), (3, 2), (5, 5), (7, 4)):
        said = text_types.caption(lessons.PATHS[taxon], None, text_types.TYPES[kind], ["genus", "species"])
        np.testing.assert_allclose(texts.text[kind, taxon], teachers.embed_texts(teacher, [said])[0], atol=1e-3)


# ----------------------------------------------------------------------------------------------- logit scale


def problem(n: int, taxa: int, scale: float) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
    """(embeddings, text, leaves) with labels drawn from the answers at ``scale``; every fifth label is a genus of 4."""
    rng = generator("scale", n, taxa, scale)
    text = lessons.unit(rng.normal(size=(taxa, 16)))
    image = lessons.unit(text[rng.integers(taxa, size=n)] + 0.2 * rng.normal(size=(n, 16)))
    chances = np.exp(scale * (image @ text.T))
    chances /= chances.sum(1, keepdims=True)
    drawn = [int(rng.choice(taxa, p=row.astype(np.float64) / row.astype(np.float64).sum())) for row in chances]
    leaves = [
        np.arange(leaf - leaf % 4, leaf - leaf % 4 + 4) if i % 5 == 0 else np.array([leaf])
        for i, leaf in enumerate(drawn)
    ]
    return torch.from_numpy(image), torch.from_numpy(text), leaves


def test_a_sweep_is_the_loss_of_every_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    image, text, leaves = problem(50, 12, 10.0)
    monkeypatch.setattr(logit_scale, "_NUMBERS_AT_ONCE", 12 * 7)  # several chunks, the last one smaller
    scales = [0.5, 10.0, 200.0]
    found, top1 = logit_scale.sweep(3 * image, text, leaves, scales)
    under = torch.zeros(50, 12, dtype=torch.bool)
    for i, mine in enumerate(leaves):
        under[i, mine] = True
    for nll, scale in zip(found, scales, strict=True):
        assert nll == pytest.approx(losses.taxon_nll(scale * image @ text.T, under).item(), rel=1e-5)
    best = (image @ text.T).argmax(1)
    assert top1 == np.mean([int(b) in mine for b, mine in zip(best, leaves, strict=True)])


@pytest.mark.parametrize("truth", [5.0, 20.0, 60.0])
def test_the_scale_that_made_the_labels_is_found(truth: float) -> None:
    scales = logit_scale.grid(100.0)
    assert len(scales) == 42 and scales == sorted(scales) and (scales[0], scales[-1]) == (1.0, pytest.approx(200.0))
    nll, _ = logit_scale.sweep(*problem(4000, 40, truth), scales)
    found = logit_scale.curve(scales, nll, 100.0)
    assert found["chosen"] == pytest.approx(truth, rel=0.2)
    assert found["nll"] < found["nll_given"] == nll[scales.index(100.0)]
    assert [point["scale"] for point in found["curve"]] == scales


def test_a_tuned_scale_is_stored_with_its_curve(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: jobs.Logits = {**PARAMS, "logit_scale": "tuned"}
    with pytest.raises(UserError, match=r"val-00000.safetensors is missing"):
        logits.run(tuned, own, "taxa")
    logits.run(PARAMS, own, "taxa")
    assert not (own / "logits" / "scale.json").exists()
    logits.run(PARAMS, own, "val-00000")
    logits.run(tuned, own, "taxa")
    found, folder = read_json(own / "logits" / "scale.json"), own / "logits"
    teacher, images = teachers.load_teacher(own / "teacher" / "model"), ShardSet(own, "val")
    taxa, shard = store.read_taxa(folder / "taxa.safetensors"), store.read_shard(folder / "val-00000.safetensors")
    assert taxa.logit_scale == found["chosen"] != teacher.logit_scale == found["given"]
    assert float(store.map_tensors(folder / "taxa.safetensors")[1]["given_logit_scale"]) == teacher.logit_scale
    assert (found["n_images"], found["n_classes"], found["label_space"], found["split"]) == (12, 6, 5, "val")
    _, below = label_space.leaves_below(own)
    under = torch.zeros(12, 5, dtype=torch.bool)
    for i, taxon in enumerate(images.taxon_ids):
        under[i, below[taxon]] = True  # of the genus its species
    cosine = (
        torch.nn.functional.normalize(torch.from_numpy(shard.target(slice(None), 0)), dim=1)
        @ torch.from_numpy(taxa.text).T
    )
    at = {point["scale"]: point["nll"] for point in found["curve"]}
    for scale, nll in at.items():
        assert nll == pytest.approx(losses.taxon_nll(scale * cosine, under).item(), rel=1e-4)
    assert at[found["chosen"]] == min(at.values()) == found["nll"]
    assert (folder / "scale.png").read_bytes().startswith(b"\x89PNG")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    about = read_json(own / "teacher" / "model" / "teacher.json")
    write_json(
        own / "teacher" / "model" / "teacher.json", {name: about[name] for name in about if name != "allow_weak"}
    )
    with pytest.raises(UserError, match=r"^teacher small names .* of split val right .*teacher\.allow_weak"):
        logits.run(tuned, own, "taxa")  # it is untrained
    write_json(own / "teacher" / "model" / "teacher.json", about)
    logits.run(tuned, own, "taxa")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setattr(logit_scale, "PHOTOGRAPHS", 5)
    logits.run(tuned, own, "taxa")
    fewer = read_json(folder / "scale.json")
    assert (fewer["n_images"], fewer["label_space"]) == (5, 5)
    assert fewer["curve"] != found["curve"]
    save_teacher(own, "model", width=24)
    with pytest.raises(UserError, match="another teacher or of other photographs; run job val-00000"):
        logits.run(tuned, own, "taxa")


# ---------------------------------------------------------------------------------------- what is taken over


@given(count=st.integers(0, 3000), place=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_one_photograph_more_changes_few_batches(count: int, place: float) -> None:
    keys = [f"key-{n:05d}" for n in range(count)]
    batches = logits._batches(keys)
    assert [i for where in batches for i in range(where.start, where.stop)] == list(range(count))
    sizes = [where.stop - where.start for where in batches]
    assert all(32 <= size <= 128 for size in sizes[:-1]) and all(0 < size <= 128 for size in sizes[-1:])
    more = [*keys[: (at := round(place * count))], "another", *keys[at:]]
    before, after = ({tuple(of[where]) for where in logits._batches(of)} for of in (keys, more))
    assert len(after - before) <= 8


Recorder = Callable[["jobs.Logits"], None]


@pytest.fixture
def recorded(own: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Call it to have what lies in data/logits recorded and in DVC's cache, as after a run; batches are small."""
    from dvc.repo import Repo

    for name, value in (("_LEAST", 2), ("_USUAL", 2), ("_MOST", 4)):
        monkeypatch.setattr(logits, name, value)
    repo = Repo.init(no_scm=True)

    def record(params: "jobs.Logits") -> None:
        code, of_jobs = {path: file_meaning(PACKAGE.parents[1] / path) for path in closure("stages.logits")}, "code.md5"
        section = {name: value for name, value in params.items() if name not in ("prompt", "templates", "logit_scale")}
        jobs = {}
        for path in own.glob("logits/*-*.safetensors"):
            used = [own / "shard" / f"{path.stem}.tar", *(own / "teacher" / "model").iterdir()]
            made_from = {of_jobs: "0" * 32} | {str(file): md5(file) for file in used}
            jobs[str(path)] = {"definition": 0, "md5": md5(path), "in": made_from}
            place = Path(repo.cache.local.oid_to_path(md5(path)))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        definition = {"params": [repr(json.dumps(section, sort_keys=True))]}
        ledger = {"definitions": [definition], "modules": {of_jobs: code}, "jobs": jobs}
        write_json(own / "provenance" / "logits.json", ledger)

    return record


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def embed(params: "jobs.Logits", data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[bytes, int, int]:
    """(the cache of shard train-00000, how many views were embedded, how many taken over), as Snakemake makes it."""
    path = data / "logits" / "train-00000.safetensors"
    path.unlink(missing_ok=True)
    logits.run(params, data, "train-00000")
    counts = re.search(r"(\d+) views embedded, (\d+) taken over", capsys.readouterr().out)
    assert counts
    return path.read_bytes(), int(counts[1]), int(counts[2])


def replace_photographs(data: Path, change: Callable[[list[tuple[str, bytes, Any]]], None]) -> None:
    images = ShardSet.of(data / "shard" / "train-00000.tar")
    samples = [(key, images.jpeg(i), images.description(i)) for i, key in enumerate(images.keys)]
    change(samples)
    write_shard(data / "shard" / "train-00000.tar", samples)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_another_view_is_all_that_is_embedded(
    own: Path, recorded: Recorder, precision: Literal["float16", "int8"], capsys: pytest.CaptureFixture[str]
) -> None:
    params: jobs.Logits = {**PARAMS, "precision": precision}
    assert embed(params, own, capsys)[1:] == (54, 0)
    recorded(params)
    more, *counts = embed({**params, "views": 5}, own, capsys)
    assert counts == [36, 54]
    fewer, *counts = embed({**params, "views": 2}, own, capsys)
    assert counts == [0, 36]
    plain, *counts = embed({**params, "magnitude": 0.25}, own, capsys)  # other views, but the plain one
    assert counts == [36, 18]
    shutil.rmtree(own / "provenance")
    assert embed({**params, "views": 5}, own, capsys) == (more, 90, 0)
    assert embed({**params, "views": 2}, own, capsys) == (fewer, 36, 0)
    assert embed({**params, "magnitude": 0.25}, own, capsys) == (plain, 54, 0)


def test_other_photographs_are_all_that_is_embedded(
    own: Path, recorded: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(PARAMS, own, capsys)
    recorded(PARAMS)
    other = encoded(picture("another", size=(44, 40)))

    def change(samples: list[tuple[str, bytes, Any]]) -> None:
        samples.insert(5, ("train-0-4b", other, samples[4][2]))  # one more
        samples[12] = (samples[12][0], other, samples[12][2])  # another one under the same key
        del samples[-1]

    replace_photographs(own, change)
    found, new, old = embed(PARAMS, own, capsys)
    assert new + old == 54 and 6 <= new <= 42 and old >= 12
    shutil.rmtree(own / "provenance")
    assert embed(PARAMS, own, capsys) == (found, 54, 0)
    assert store.read_shard(own / "logits" / "train-00000.safetensors").images[12] == store.image_digest(other)


@pytest.mark.parametrize(
    "what",
    [
        "nothing",
        "code",
        "teacher",
        "precision",
        "ledger",
        "definition",
        "content",
        "damaged",
        "no repository",
        "elsewhere",
    ],
)
def test_what_is_not_known_to_be_the_same_is_embedded(
    own: Path, recorded: Recorder, what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(PARAMS, own, capsys)
    recorded(PARAMS)
    params = PARAMS if what == "nothing" else {**PARAMS, "views": 4}
    ledger, objects = own / "provenance" / "logits.json", [p for p in Path(".dvc/cache").rglob("*") if p.is_file()]
    assert len(objects) == 1
    if what == "code":
        known = ledger.read_text()
        ledger.write_text(known.replace(meaning((PACKAGE / "models/teachers.py").read_bytes()), "0" * 32))
        assert ledger.read_text() != known
    elif what == "teacher":
        save_teacher(own, "model", size=40)
    elif what == "precision":
        params["precision"] = "int8"
    elif what == "ledger":
        ledger.write_text("{")
    elif what == "definition":
        ledger.write_text(ledger.read_text().replace('"params": [', '"params": ["two", '))
    elif what == "content":
        objects[0].unlink()
    elif what == "damaged":
        objects[0].write_bytes(objects[0].read_bytes()[:-1] + b"x")
    elif what == "no repository":
        shutil.rmtree(".dvc")
    elif what == "elsewhere":
        monkeypatch.chdir("data")
        own = Path.cwd()
    assert embed(params, own, capsys)[1:] == (18 * params["views"], 0)


@pytest.mark.pipeline
def test_both_engines_embed_only_what_is_new(tmp_path: Path) -> None:
    folder = checkout.new(tmp_path / "built")
    checkout.snakemake(folder, "logits")
    assert taken_over(folder) == {"train-00000": 0, "train-00001": 0, "val-00000": 0}
    photographs = sum(len(store.read_shard(path).keys) for path in (folder / "data/logits").glob("train-*"))

    checkout.set_parameter(folder, "logits.views", 3)
    checkout.snakemake(folder, "logits")
    counts = taken_over(folder)
    assert counts["train-00000"] + counts["train-00001"] == 2 * photographs  # of three views each
    assert counts["val-00000"] == len(store.read_shard(folder / "data/logits/val-00000.safetensors").keys)
    assert up_to_date(folder)
    made = checkout.artifacts(folder)
    checkout.snakemake(folder, "logits", "--forcerun embed_shard")  # anew
    assert set(taken_over(folder).values()) == {0}
    assert checkout.artifacts(folder) == made

    checkout.set_parameter(folder, "logits.views", 4)
    checkout.sh("dvc repro -q logits", folder)
    counts = taken_over(folder)
    assert counts["train-00000"] + counts["train-00001"] == 3 * photographs
    assert up_to_date(folder)


def taken_over(folder: Path) -> dict[str, int]:
    """Shard -> how many views its job took over from the run before."""
    logs = {name: folder / f"logs/logits/{name}.log" for name in ("train-00000", "train-00001", "val-00000")}
    found = {name: re.search(r"views embedded, (\d+) taken over", log.read_text()) for name, log in logs.items()}
    return {name: int(match[1]) for name, match in found.items() if match}


def up_to_date(folder: Path) -> bool:
    assert checkout.planned(folder, "logits") == {}
    assert "logits" not in json.loads(checkout.sh("dvc status --json logits", folder))
    return True


# -------------------------------------------------------------------------------------------------- captions


@pytest.fixture
def knowing(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A teacher to whom a caption is the taxa that it names; returns the names of the leaves."""
    names = [taxonomy.scientific_name(path) for path in lessons.PATHS[:5]]

    def embed(_: teachers.Teacher, texts: list[str]) -> np.ndarray:
        rows = np.array([[0.1 + (name in text) for name in names] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(teachers, "embed_texts", embed)
    logits.run({**PARAMS, "prompt": "sci"}, data, "taxa")
    return names


def test_captions_that_contradict_the_label_are_flagged(data: Path, knowing: list[str]) -> None:
    shard = ShardSet.of(data / "shard" / "val-00000.tar")
    right = {
        taxon: text_types.caption(path, None, "sci") for taxon, path in zip(lessons.IDS, lessons.PATHS, strict=True)
    }
    said = [right[taxon] for taxon in shard.taxon_ids]
    wrong = ["a photo of Bellis perennis." if "Bellis" not in text else "a photo of Morus alba." for text in said]
    vague = ["a green thing." if i else "" for i in range(len(said))]
    table = pa.table({"key": shard.keys, "coca_0": said, "coca_1": wrong, "coca_2": vague})
    write_table(data / "caption" / "coca" / "val-00000.parquet", table)
    logits.run(PARAMS, data, "captions/coca/val-00000")
    scores = read_table(data / "logits" / "captions" / "coca" / "val-00000.parquet")
    assert scores.schema == logits.SCORES
    rows = scores.to_pylist()
    assert len(rows) == 3 * len(said) - 1  # one says nothing
    assert {row["captioner"] for row in rows} == {"coca"}
    species = [key for key, taxon in zip(shard.keys, shard.taxon_ids, strict=True) if taxon in lessons.IDS[:5]]
    for row in rows:
        taxon = shard.taxon_ids[shard.keys.index(row["key"])]
        assert row["other_taxon_id"] != taxon
        if row["n"] == 0 and row["key"] in species:
            assert (row["rank"], row["flag"]) == (1, False) and row["similarity"] > 0.9
        if row["n"] == 1:
            named = "Morus alba" if taxon == lessons.IDS[2] else "Bellis perennis"
            expected = lessons.IDS[knowing.index(named)]
            assert row["flag"] == (taxon != expected)
            if row["flag"]:
                assert row["other_taxon_id"] == expected and row["other_similarity"] > row["similarity"] + 0.1
                assert row["rank"] > 1
        if row["n"] == 2:
            assert not row["flag"]
    # A photograph known to a genus: each of the species under it is its own.
    genus = [row for row in rows if row["key"].startswith("val-5") and row["n"] == 1]
    assert genus and all(row["flag"] and row["other_taxon_id"] == lessons.IDS[2] for row in genus)
    (data / "caption" / "coca" / "val-00000.parquet").unlink()


def test_scores_need_the_taxa_and_captions_of_the_same_making(data: Path) -> None:
    logits.run(PARAMS, data, "taxa")
    with pytest.raises(UserError, match=r"caption/coca/test-00000\.parquet is missing"):
        logits.run(PARAMS, data, "captions/coca/test-00000")
    write_table(data / "caption" / "coca" / "test-00000.parquet", pa.table({"key": ["x"], "coca_0": ["a bee."]}))
    with pytest.raises(UserError, match="other photographs"):
        logits.run(PARAMS, data, "captions/coca/test-00000")
    (data / "caption" / "coca" / "test-00000.parquet").unlink()


def test_captions_are_embedded_with_their_texts(data: Path) -> None:
    keys = ShardSet.of(data / "shard" / "train-00001.tar").keys
    said = [f"a photo of number {n}." if n % 3 else None for n in range(len(keys))]
    table = pa.table({"key": keys, "coca_0": said, "coca_1": ["Bäume."] * len(keys)})
    write_table(data / "caption" / "coca" / "train-00001.parquet", table)
    logits.run(PARAMS, data, "texts/coca/train-00001")
    path = synthetic_captions.path(data, "coca", "train-00001")
    assert path == data / "logits" / "texts" / "coca" / "train-00001.safetensors"
    found_keys, found = synthetic_captions.read(path)
    teacher = teachers.load_teacher(data / "teacher" / "model")
    assert (found_keys, found.teacher) == (keys, teacher.identity)
    for row, text in enumerate(said):
        captions = dict(found.of(row))
        assert [*captions] == [text for text in (text, "Bäume.") if text]
        for caption, embedding in captions.items():
            np.testing.assert_allclose(embedding, teachers.embed_texts(teacher, [caption])[0], atol=1e-3)
    assert not found.embeddings[0, 0].any()
    first = path.read_bytes()
    logits.run(PARAMS, data, "texts/coca/train-00001")
    assert path.read_bytes() == first
    shutil.rmtree(data / "caption" / "coca")
    shutil.rmtree(data / "logits" / "texts")


def test_the_lit_prompt_lists_what_the_captions_list(data: Path, knowing: list[str]) -> None:
    path = data / "caption" / "val-00000.parquet"
    table = read_table(path)
    with pytest.raises(UserError, match="has no lit_columns in its metadata"):
        logits.run({**PARAMS, "prompt": "lit"}, data, "taxa")
    try:
        # The teacher of this test knows a taxon by "Genus epithet", which this sentence does not hold.
        write_table(path, table.replace_schema_metadata({"lit_columns": '["family", "species"]'}))
        with pytest.raises(UserError, match=r"5 of 5 taxa share .*'A photo of a Sulidae bassanus' = .* not tell most"):
            logits.run({**PARAMS, "prompt": "lit"}, data, "taxa")
        write_table(path, table.replace_schema_metadata({"lit_columns": '["genus", "species"]'}))
        logits.run({**PARAMS, "prompt": "lit"}, data, "taxa")
        taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
        assert taxa.text[0].max() > 0.9
        assert taxa.lit_columns == ["genus", "species"]
    finally:
        write_table(path, table)


# ---- embeddings that are no numbers, or all the same


def broken(value: float) -> Callable[..., torch.Tensor]:
    """``teachers.embed_images`` of a model that gives ``value`` for the third photograph of each batch."""
    real = teachers.embed_images

    def embed(model: Any, pixels: torch.Tensor) -> torch.Tensor:
        embeddings = real(model, pixels).clone()
        embeddings[2] = value
        return embeddings

    return embed


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "no number"), (np.inf, "no number"), (0.0, "zero")])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_an_embedding_that_is_no_number_is_named_and_nothing_written(
    own: Path, monkeypatch: pytest.MonkeyPatch, value: float, kind: str, precision: Literal["float16", "int8"]
) -> None:
    monkeypatch.setattr(teachers, "embed_images", broken(value))
    third = ShardSet.of(own / "shard" / "val-00000.tar").keys[2]
    with pytest.raises(UserError, match=f"teacher in data/teacher/model, shard val-00000: 1 of .* {kind}.*{third}"):
        logits.run({**PARAMS, "precision": precision}, own, "val-00000")
    assert not any((own / "logits").glob("*"))


def test_a_teacher_to_whom_all_photographs_are_one_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(_: Any, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.ones(len(pixels), lessons.D), dim=1)

    monkeypatch.setattr(teachers, "embed_images", embed)
    with pytest.raises(UserError, match=r"shard train-00000: all .* photographs have the same embedding"):
        logits.run(PARAMS, own, "train-00000")


def test_a_prompt_that_is_no_number_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(_: Any, texts: list[str]) -> np.ndarray:
        rows = np.ones((len(texts), lessons.D), np.float32)
        rows[1] = np.nan
        return rows

    monkeypatch.setattr(teachers, "embed_texts", embed)
    captions = own / "caption" / "val-00000.parquet"
    write_table(captions, read_table(captions).replace_schema_metadata({"lit_columns": '["genus"]'}))
    for job in ("taxa", "texts"):
        with pytest.raises(UserError, match=r"1 of .* embeddings are no number"):
            logits.run(PARAMS, own, job)
        assert not (own / "logits" / f"{job}.safetensors").exists()


def test_taxa_with_one_embedding_are_named(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def embed(_: Any, texts: list[str]) -> np.ndarray:
        return np.eye(lessons.D, dtype=np.float32)[[max(1, number) for number in range(len(texts))]]

    monkeypatch.setattr(teachers, "embed_texts", embed)
    logits.run(PARAMS, own, "taxa")
    said = capsys.readouterr().out
    assert "2 of 5 taxa share their embedding with another one" in said and said.count("' = '") == 1
