"""A small CoCa from photographs to captions: trained, saved as open_clip reads it, named in caption.captioners."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from bioclip_lite.captioning import coca, fine_tuning
from bioclip_lite.commands import captioner as command
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.stages import caption as stage
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils import machine, sections
from bioclip_lite.utils.command_line import COMMANDS
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, write_json
from support.photographs import encoded
from support.small_coca import BEAM, GENERA, NUCLEUS, TINY, photograph

IMAGES = {"pretrain": 12, "train": 10, "val": 4, "test": 4}  # per genus
SECTION: sections.Caption = {
    "lit_columns": ["genus"],
    "templates": {},
    "languages": [],
    "captioners": [NUCLEUS, BEAM],
    "seed": 0,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """A data folder with a captioner in data/weights/tiny, and how its training went."""
    data = tmp_path_factory.mktemp("data")
    for split, count in IMAGES.items():
        samples = []
        for key, genus in sorted((f"{split}-{genus}-{n}", genus) for genus in GENERA for n in range(count)):
            path = ("Animalia", None, None, None, None, genus, "minor")
            about = {"taxon_id": taxonomy.taxon_id(path), "ranks": list(path), "common_name": None}
            samples.append((key, encoded(photograph(genus, key)), about))
        write_shard(data / "shard" / f"{split}-00000.tar", samples)
    write_json(data / "shard" / "sizes.json", {f"{split}-00000.tar": 4 * n for split, n in IMAGES.items()})
    stage.run({**SECTION, "captioners": []}, data)
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        return data, fine_tuning.train(data, data / "weights" / "tiny", ["sci"], 14, 6e-3)


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fine_tuning, "_SMALL", TINY)
    patch.setattr(fine_tuning, "_BATCH", 16)


def test_training_lowers_the_loss_of_the_captions(trained: tuple[Path, list[dict[str, float]]]) -> None:
    _, history = trained
    assert [row["epoch"] for row in history] == list(range(1, 15))
    assert history[-1]["val_caption_loss"] < 0.5 * history[0]["val_caption_loss"]


@pytest.mark.parametrize("chosen", [NUCLEUS, BEAM], ids=["nucleus", "beam"])
def test_its_captions_name_the_genus_more_often_than_chance(trained: tuple, chosen: dict[str, Any]) -> None:
    data, _ = trained
    stage.run(SECTION, data, f"{chosen['name']}/test-00000")
    path = data / "caption" / chosen["name"] / "test-00000.parquet"
    table = read_table(path)
    assert table.column_names == ["key", f"{chosen['name']}_0", f"{chosen['name']}_1"]
    rows = table.to_pylist()
    assert [row.pop("key") for row in table.to_pylist()] == ShardSet(data, "test").keys
    right = [row["key"].split("-")[1].lower() in (row[f"{chosen['name']}_0"] or "") for row in rows]
    assert sum(right) > 0.6 * len(right)  # chance: 0.25
    for text in (value for row in rows for name, value in row.items() if name != "key" and value):
        assert text.index(".") == len(text) - 1 and "  " not in text and text == text.strip()
    again = path.read_bytes()
    stage.run(SECTION, data, f"{chosen['name']}/test-00000")
    assert path.read_bytes() == again


def test_all_jobs_of_the_stage_describe_every_shard(trained: tuple, tmp_path: Path) -> None:
    data, _ = trained
    for name in ("shard", "weights"):
        (tmp_path / name).symlink_to(data / name)
    brief = NUCLEUS | {"captions": 1, "tokens": 5}
    stage.run({**SECTION, "captioners": [brief]}, tmp_path)
    made = {path.relative_to(tmp_path / "caption").as_posix() for path in (tmp_path / "caption").rglob("*.parquet")}
    assert made == {f"{folder}{split}-00000.parquet" for folder in ("", "tiny/") for split in IMAGES}


def test_a_caption_depends_on_its_photograph_and_number_alone(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = trained
    images = ShardSet(data, "test")
    tiny = coca.find(NUCLEUS, data)
    tiny.model.text_decoder.text_projection.data.mul_(0.88)  # less sure of what it sees
    chosen = {**NUCLEUS, "top_p": 0.9}
    texts = list(coca.describe(tiny, images, chosen, 0))
    assert len({text for both in texts for text in both}) > 3  # they are drawn, and photographs differ
    assert any(first != second for first, second in texts)
    monkeypatch.setitem(coca._IMAGES, machine.device().type, 3)
    assert list(coca.describe(tiny, images, chosen, 0)) == texts
    assert list(coca.describe(tiny, images, {**chosen, "captions": 1}, 0)) == [both[:1] for both in texts]
    assert list(coca.describe(tiny, images, chosen, 1)) != texts


def test_the_next_token_is_what_the_models_own_forward_says() -> None:
    torch.manual_seed(0)
    model = fine_tuning.build(TINY).eval()
    pixels, tokens = torch.randn(3, 3, 32, 32), torch.randint(1, 49000, (3, 7))
    with torch.inference_mode():
        seen = model._encode_image(pixels)[1]
        expected = model(pixels, tokens, output_labels=False)["logits"][:, -1]
        found = coca._next_logits(model, seen, torch.tensor([2, 0]), tokens[[2, 0]])
    torch.testing.assert_close(found, expected[[2, 0]], atol=1e-5, rtol=1e-4)


def test_two_trainings_are_one_and_fine_tuning_goes_on(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    data = trained[0]
    small(monkeypatch)
    for out in ("one", "two"):
        assert fine_tuning.train(data, data / "weights" / out, ["sci"], 1, 3e-3)[0]["val_caption_loss"] > 1
    folders = [data / "weights" / out for out in ("one", "two")]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and set(files[0]) == set(fine_tuning.FILES)
    arguments = ["--data", str(data), "--out", str(data / "weights/more"), "--from", str(data / "weights/tiny")]
    assert COMMANDS["captioner"]
    assert command.main([*arguments, "--captions", "sci", "--epochs", "1", "--learning-rate", "0.0005"]) == 0
    model = coca.find({**NUCLEUS, "model": "local-dir:more"}, data).model
    before = coca.find(NUCLEUS, data).model.state_dict()
    moved = [float((tensor - before[name]).abs().max()) for name, tensor in model.state_dict().items()]
    assert 0 < max(moved) < 0.05  # from where it was, not from nothing


def test_a_caption_goes_on_from_its_prompt(trained: tuple) -> None:
    data, _ = trained
    images = ShardSet(data, "test")
    for chosen in (NUCLEUS, BEAM):
        asked = {**chosen, "prompt": "A picture of", "tokens": 4, "captions": 1, "beams": 2}
        texts = [text for both in coca.describe(coca.find(asked, data), images, asked, 0) for text in both]
        assert all(text.startswith("a picture of ") and text.endswith(".") for text in texts)


def test_open_clip_reads_the_folder(trained: tuple) -> None:
    folder = trained[0] / "weights" / "tiny"
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    assert isinstance(model, open_clip.CoCa)
    assert preprocess(photograph("Azura", "x")).shape == (3, 32, 32)


def test_captions_end_at_the_first_full_stop() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    for said, expected in (
        ("a red beetle. a photo of the sea.", "a red beetle."),
        ("a   Red Beetle", "a red beetle."),
        ("st. john's wort", "st."),
        (". . .", ""),
    ):
        assert coca._words(tokenizer, [*tokenizer.encode(said), tokenizer.eot_token_id]) == expected
    torch.manual_seed(0)
    rules = coca._rules(coca.Captioner(fine_tuning.build(TINY), tokenizer, {}), 20)
    assert tokenizer.eot_token_id in rules.stops
    assert all("." in tokenizer.decode([token]) for token in rules.stops if token != tokenizer.eot_token_id)
    assert tokenizer.encode("a bee.")[-1] in rules.stops


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "local-dir:absent"}, r"caption.captioners, tiny.model: no folder .*absent"),
        ({"model": "ViT-B-32"}, r"caption.captioners, tiny.weights: ViT-B-32 is only an architecture"),
        ({"model": "no-such"}, r"caption.captioners, tiny.model: open_clip has no model 'no-such'"),
        ({"tokens": 24}, "tokens is 24; the model writes at most 23"),
        ({"tokens": 21, "prompt": "a photo of"}, "tokens is 21; the model writes at most 20 after the 3 of its prompt"),
        ({"fine_tuning": {"epochs": 1}}, r"caption/tiny/model/open_clip_config.json is missing"),
        ({"model": "local-dir:clip"}, "clip is no CoCa"),
    ],
)
def test_what_cannot_describe_is_refused(trained: tuple, change: dict[str, Any], says: str) -> None:
    weights = trained[0] / "weights"
    clip = weights / "clip"
    clip.mkdir(exist_ok=True)
    write_json(clip / "open_clip_config.json", {"model_cfg": open_clip.get_model_config("ViT-B-32")})
    (clip / "open_clip_model.safetensors").touch()
    with pytest.raises(UserError, match=says):
        coca.find({**NUCLEUS, **change}, trained[0])


def test_weights_of_a_named_architecture_may_lie_in_the_folder(trained: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = trained[0] / "weights"
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {**TINY} if name == "coca_tiny" else None)
    (weights / "mine.safetensors").write_bytes((weights / "tiny" / "open_clip_model.safetensors").read_bytes())
    named = {**NUCLEUS, "model": "coca_tiny", "weights": "mine.safetensors"}
    with pytest.raises(UserError, match=r"state it in caption\.captioners, tiny\.preprocess"):
        coca.find(named, trained[0])
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    found = coca.find({**named, "preprocess": preprocess}, trained[0])
    images = ShardSet(trained[0], "val")
    assert next(coca.describe(found, images, NUCLEUS, 0))[0].startswith("a photo of")


def test_a_users_mistakes_are_no_tracebacks(trained: tuple, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = trained[0]
    out = ["--out", str(tmp_path / "out")]
    assert command.main(["--data", str(tmp_path), *out]) == 1
    assert command.main(["--data", str(data), *out, "--epochs", "0"]) == 1
    assert command.main(["--data", str(data), *out, "--captions", "sky"]) == 1
    assert command.main(["--data", str(data), *out, "--from", str(tmp_path / "absent")]) == 1
    said = capsys.readouterr().err
    for part in ("sizes.json is missing", "--epochs is 0", "caption/sky/pretrain-00000.parquet is missing", "absent"):
        assert part in said
    assert not (tmp_path / "out").exists()
