import hashlib
import json
import os
import pickle
import socket
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from bioclip_lite.models import hub, teachers
from bioclip_lite.stages import teacher
from bioclip_lite.utils.errors import UserError
from support.small_clip import CONFIG, publish, siglip, small, unigram


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with a hub that refuses connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    endpoint(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "hub"


def endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_model_in_the_hub_cache_needs_no_hub(cache: Path, tmp_path: Path, weights: str) -> None:
    repository = cache / "models--imageomics--small"
    publish(repository / "snapshots" / "abc", weights)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    published = hub.find("hf-hub:imageomics/small", None, tmp_path)
    assert published.weights.name == weights
    assert (published.licence, published.revision) == ("mit", "abc")
    model = hub.load(published)
    for name, tensor in small().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    preprocess = teachers.open_clip_preprocess(published.config, "here")
    assert (preprocess["size"], preprocess["mean"]) == (16, [0.4] * 3)
    teachers.save_teacher(tmp_path / "t", model, published.config, preprocess, "pretrained", "small", "mit")
    loaded = teachers.load_teacher(tmp_path / "t")
    pixels = torch.ones(1, 3, 16, 16)
    assert torch.equal(teachers.embed_images(loaded.model, pixels), teachers.embed_images(small(), pixels))
    assert teachers.embed_texts(loaded, ["a photo of Bellis perennis."]).shape == (1, 8)


def test_a_pinned_revision_is_that_and_no_other(cache: Path, tmp_path: Path) -> None:
    repository = cache / "models--imageomics--small"
    for commit in ("1" * 40, "2" * 40):
        config = {**CONFIG, "preprocess_cfg": {**CONFIG["preprocess_cfg"], "mean": [int(commit[0]) / 10] * 3}}
        publish(repository / "snapshots" / commit, "open_clip_model.safetensors", config)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("2" * 40)
    assert hub.find("hf-hub:imageomics/small", None, tmp_path).revision == "2" * 40
    pinned = hub.find("hf-hub:imageomics/small", None, tmp_path, "1" * 40)
    assert pinned.revision == "1" * 40 and pinned.config["preprocess_cfg"]["mean"] == [0.1] * 3
    with pytest.raises(UserError, match="neither in"):
        hub.find("hf-hub:imageomics/small", None, tmp_path, "3" * 40)


@pytest.mark.parametrize(
    ("head", "licence", "refused"),
    [
        ("license: mit", "mit", False),
        ("license: cc-by-nc-4.0", "cc-by-nc-4.0", False),
        ("license: apple-amlr", "apple-amlr", True),
        ("license: other\nlicense_name: apple-amlr", "apple-amlr", True),
        ("license: other\nlicense_name: apple-ascl", "apple-ascl", False),
        ("tags: x", None, False),
    ],
)
def test_weights_for_research_only_are_refused_unless_asked_for(
    tmp_path: Path, head: str, licence: str | None, refused: bool
) -> None:
    publish(tmp_path / "weights" / "mine", "open_clip_model.safetensors")
    (tmp_path / "weights" / "mine" / "README.md").write_text(f"---\n{head}\n---\n")
    chosen = {"model": "local-dir:mine", "weights": None, "revision": None, "preprocess": None}
    params: Any = {"kind": "pretrained", "pretrained": chosen, "allow_research_only": False, "allow_weak": False}
    if refused:
        with pytest.raises(UserError, match=r"allows research only, .* set teacher\.allow_research_only"):
            teacher.run(params, tmp_path)
        assert not (tmp_path / "teacher").exists()
    teacher.run({**params, "allow_research_only": refused}, tmp_path)
    about = json.loads((tmp_path / "teacher" / "model" / "teacher.json").read_text())
    assert about["licence"] == licence


def test_a_hub_out_of_reach_is_one_line_within_seconds(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        addresses = ["http://127.0.0.1:9", "http://no-such-host.invalid", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        for address in addresses:
            endpoint(monkeypatch, address)
            began = time.monotonic()
            with pytest.raises(UserError) as raised:
                hub.find("hf-hub:imageomics/bioclip", None, tmp_path)
            assert time.monotonic() - began < 10
            message = str(raised.value)
            assert "\n" not in message
            for part in ("imageomics/bioclip", str(cache), "`hf download imageomics/bioclip`"):
                assert part in message


def test_offline_mode_asks_nobody(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.find("ViT-B-32", "laion2b_s34b_b79k", tmp_path)


def test_a_local_folder(tmp_path: Path) -> None:
    publish(tmp_path / "weights" / "mine", "open_clip_pytorch_model.bin")
    for place in ("mine", str(tmp_path / "weights" / "mine")):
        assert hub.load(hub.find(f"local-dir:{place}", None, tmp_path / "weights")).logit_scale.item() > 0
    with pytest.raises(UserError, match="no folder"):
        hub.find("local-dir:other", None, tmp_path / "weights")
    (tmp_path / "weights" / "mine" / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="must hold"):
        hub.find("local-dir:mine", None, tmp_path / "weights")


def test_a_name_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", CONFIG["model_cfg"])
    save_file(small().state_dict(), tmp_path / "tiny.safetensors")
    published = hub.find("tiny", "tiny.safetensors", tmp_path, preprocess=CONFIG["preprocess_cfg"])
    assert published.config["preprocess_cfg"] == CONFIG["preprocess_cfg"]
    assert torch.equal(hub.load(published).visual.conv1.weight, small().visual.conv1.weight)
    for model, weights, says in (
        ("tiny", None, "only an architecture"),
        ("tiny", "other.pt", "no tag of tiny"),
        ("tinier", None, "no model 'tinier'"),
    ):
        with pytest.raises(UserError, match=says):
            hub.find(model, weights, tmp_path)


def test_a_tag_decides_on_the_activation(cache: Path, tmp_path: Path) -> None:
    tag = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    repository = cache / f"models--{tag['hf_hub'].rstrip('/').replace('/', '--')}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (repository / "snapshots" / "abc" / name).touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    published = hub.find("ViT-B-32", "openai", tmp_path)
    assert published.config["model_cfg"]["quick_gelu"]
    assert published.config["preprocess_cfg"]["mean"] == tag["mean"]


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def test_a_checkpoint_is_data_not_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "mine", "open_clip_pytorch_model.bin")
    torch.save({"visual.conv1.weight": Bomb()}, tmp_path / "mine" / "open_clip_pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(UserError, match=r"more than tensors \(posix.mkdir\), which could run code"):
        hub.load(hub.find("local-dir:mine", None, tmp_path))
    assert not Path("exploded").exists()


def test_a_file_named_after_its_architecture_needs_no_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", CONFIG["model_cfg"])
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "ViT-B-16-quickgelu", {**CONFIG["model_cfg"], "quick_gelu": True}
    )
    for file, quick in (
        ("biotroveclip-vit-b-16-from-openai-epoch-40.pt", True),
        ("biotroveclip-vit-b-16-from-bioclip-epoch-8.pt", False),
    ):
        torch.save(
            {"epoch": 8, "state_dict": {f"module.{k}": v for k, v in small().state_dict().items()}}, tmp_path / file
        )
        published = hub.find(file, None, tmp_path)
        assert published.config["model_cfg"].get("quick_gelu", False) == quick
        assert published.config["preprocess_cfg"]["mean"][0] == pytest.approx(0.481, abs=1e-3)
        assert torch.equal(hub.load(published).visual.proj, small().visual.proj)
    (tmp_path / "mine.pt").touch()
    with pytest.raises(UserError, match="contains no architecture"):
        hub.find("mine.pt", None, tmp_path)


def test_one_of_several_files_of_a_repository(cache: Path, tmp_path: Path) -> None:
    repository = cache / "models--BGLab--BioTrove-CLIP"
    place = publish(repository / "snapshots" / "abc", "open_clip_pytorch_model.bin")
    file = "biotroveclip-vit-l-14-from-metaclip-epoch-12.pt"
    (place / "open_clip_pytorch_model.bin").rename(place / file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    published = hub.find("hf-hub:BGLab/BioTrove-CLIP", file, tmp_path)
    assert (published.weights.name, published.licence) == (file, "mit")
    assert published.config["model_cfg"]["vision_cfg"]["layers"] == 24  # not the small one of the repository's config
    assert published.config["preprocess_cfg"]["mean"] == [0.4] * 3
    with pytest.raises(UserError, match=r"teacher\.pretrained\.\w+: BGLab/BioTrove-CLIP .*other\.pt"):
        hub.find("hf-hub:BGLab/BioTrove-CLIP", "other.pt", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no JSON"),
        ('{"embed_dim": 16}', "has no model_cfg"),
        ("[]", "has no model_cfg"),
        ('{"model_cfg": null}', "has no model_cfg"),
    ],
)
def test_a_configuration_that_is_none_is_told(tmp_path: Path, content: str, says: str) -> None:
    publish(tmp_path / "mine", "open_clip_model.safetensors")
    (tmp_path / "mine" / "open_clip_config.json").write_text(content)
    with pytest.raises(UserError, match=says):
        hub.find("local-dir:mine", None, tmp_path)


def test_a_configuration_with_an_unknown_entry_is_told(tmp_path: Path) -> None:
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"], "foo": 1}}
    publish(tmp_path / "mine", "open_clip_model.safetensors", config)
    with pytest.raises(UserError, match="foo"):
        hub.load(hub.find("local-dir:mine", None, tmp_path))


def test_a_siglip_is_a_teacher_with_its_own_tokenizer(tmp_path: Path) -> None:
    unigram(siglip(tmp_path / "weights" / "siglip"))
    chosen = {"model": "local-dir:siglip", "weights": None, "revision": None, "preprocess": None}
    teacher.run(
        {"kind": "pretrained", "pretrained": chosen, "allow_research_only": False, "allow_weak": False}, tmp_path
    )
    loaded = teachers.load_teacher(tmp_path / "teacher" / "model")
    embedded = teachers.embed_texts(loaded, ["a photo of Bellis perennis.", "A photo of bellis perennis"])
    assert (embedded[0] == embedded[1]).all()  # its tokenizer takes neither capitals nor full stops
    assert loaded.preprocess["resize"] == "squash"
    (tmp_path / "weights" / "siglip" / "tokenizer.json").unlink()
    assert teachers.load_teacher(tmp_path / "teacher" / "model").tokenizer(["x"]).shape == (1, 40)


def test_a_missing_tokenizer_is_one_line_with_the_command_that_fetches_it(cache: Path, tmp_path: Path) -> None:
    siglip(tmp_path / "weights" / "siglip")
    with pytest.raises(UserError, match="hf download timm/small-SigLIP"):
        hub.find("local-dir:siglip", None, tmp_path / "weights")
    unigram(tmp_path / "weights" / "timm--small-SigLIP")
    assert hub.find("local-dir:siglip", None, tmp_path / "weights").tokenizer


def test_text_towers_of_transformers_are_refused(tmp_path: Path) -> None:
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"], "text_cfg": {"hf_model_name": "some/bert"}}}
    publish(tmp_path / "mine", "open_clip_model.safetensors", config)
    with pytest.raises(UserError, match="not supported"):
        hub.load(hub.find("local-dir:mine", None, tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    publish(tmp_path / "mine", "open_clip_model.safetensors")
    save_file({"wrong": torch.zeros(1)}, tmp_path / "mine" / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="cannot load"):
        hub.load(hub.find("local-dir:mine", None, tmp_path))


def towers(cache: Path, repository: str, file: str, card: str | None, commit: str = "a" * 40) -> Path:
    """An image tower in the hub cache, as timm publishes one; without its model card if ``card`` is None."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    place = folder / "snapshots" / commit
    place.mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, place / file)
    if card is not None:
        (place / "README.md").write_text(f"---\n{card}\n---\n")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return place / file


@pytest.mark.parametrize(
    ("weights", "student", "repository", "file", "card", "licence"),
    [
        (
            "pretrained",
            "fastvit_t8.apple_in1k",
            "timm/fastvit_t8.apple_in1k",
            "model",
            "license: other",
            "fastvit-license",
        ),
        ("pretrained", "repvit_m0_9.dist_450e_in1k", "timm/repvit_m0_9.dist_450e_in1k", "model", None, "apache-2.0"),
        ("pretrained", "MobileCLIP2-S0", "timm/MobileCLIP2-S0-OpenCLIP", "open_clip_model", "license: mit", "mit"),
        (
            "hf-hub:timm/vit_tiny_patch16_224.augreg_in1k",
            "any",
            "timm/vit_tiny_patch16_224.augreg_in1k",
            "model",
            "license: bsd",
            "bsd",
        ),
        ("hf-hub:me/mine", "any", "me/mine", "model", "license: cc0-1.0", "cc0-1.0"),
    ],
)
def test_weights_of_students_in_the_hub_cache(
    cache: Path, tmp_path: Path, weights: str, student: str, repository: str, file: str, card: str, licence: str
) -> None:
    path = towers(cache, repository, f"{file}.safetensors", card)
    found = hub.find_weights(weights, student, tmp_path, allow_research_only=False)
    assert found.path == path
    assert found.about() == {
        "origin": f"hf-hub:{repository}",
        "licence": licence,
        "revision": "a" * 40,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    means = {"fastvit_t8.apple_in1k": (0.485, 0.456, 0.406), "MobileCLIP2-S0": (0.0, 0.0, 0.0)}
    assert student not in means or found.mean == means[student]
    assert repository != "me/mine" or found.mean is found.std is None


def test_a_pinned_revision_of_weights_is_that_and_no_other(cache: Path, tmp_path: Path) -> None:
    for commit in ("1" * 40, "2" * 40):
        towers(cache, "timm/x", "model.safetensors", "license: mit", commit)
    for at, commit in (("", "2" * 40), ("@" + "1" * 40, "1" * 40)):
        found = hub.find_weights(f"hf-hub:timm/x{at}", "any", tmp_path, False)
        assert found.revision == commit == found.path.parent.name
    with pytest.raises(UserError, match=rf"^distill\.weights: timm/x .* `hf download timm/x --revision {'3' * 40}`"):
        hub.find_weights("hf-hub:timm/x@" + "3" * 40, "any", tmp_path, False)


@pytest.mark.parametrize(
    ("weights", "student", "repository", "card"),
    [
        ("pretrained", "fastvit_mci0.apple_mclip", "apple/mobileclip_s0_timm", None),  # timm knows its licence
        ("pretrained", "MobileCLIP2-S0", "timm/MobileCLIP2-S0-OpenCLIP", "license: apple-amlr"),
        ("hf-hub:me/mine", "any", "me/mine", "license: other\nlicense_name: for-research-only"),
    ],
)
def test_initial_weights_for_research_only_are_refused_unless_asked_for(
    cache: Path, tmp_path: Path, weights: str, student: str, repository: str, card: str | None
) -> None:
    towers(cache, repository, "model.safetensors", card)
    with pytest.raises(UserError, match=r"allows research only, .* set distill\.allow_research_only"):
        hub.find_weights(weights, student, tmp_path, False)
    assert hub.research_only(hub.find_weights(weights, student, tmp_path, True).licence)


def test_weights_without_any_licence_at_hand_are_not_used_unseen(cache: Path, tmp_path: Path) -> None:
    towers(cache, "timm/MobileCLIP2-S0-OpenCLIP", "open_clip_model.safetensors", None)  # as open_clip leaves its cache
    with pytest.raises(UserError, match=r"\(README\.md\) is .* `hf download timm/MobileCLIP2-S0-OpenCLIP`"):
        hub.find_weights("pretrained", "MobileCLIP2-S0", tmp_path, False)
    assert hub.find_weights("pretrained", "MobileCLIP2-S0", tmp_path, True).licence is None


def test_a_tag_whose_licence_is_not_at_hand_is_not_used_unseen(cache: Path, tmp_path: Path) -> None:
    towers(cache, "timm/MobileCLIP2-S0-OpenCLIP", "open_clip_model.safetensors", None)
    with pytest.raises(UserError, match=r"^teacher\.pretrained\.model: .* \(README\.md\) is neither"):
        hub.find("MobileCLIP2-S0", "dfndr2b", tmp_path)


def test_weights_that_are_not_there(cache: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    for weights, student, says in (
        ("pretrained", "fastvit_t8", "`hf download timm/fastvit_t8.apple_in1k`"),
        ("pretrained", "mobilenetv4_conv_small_035", "timm has no published weights of mobilenetv4_conv_small_035"),
        (
            "pretrained",
            "mobilenetv4_conv_small_035.untrained",
            "no published weights .* students with some: mobilenetv4_",
        ),
        ("pretrained", "no_such", "neither timm nor open_clip has published weights of no_such"),
        ("hf-hub:timm/absent", "any", r"distill\.weights: timm/absent \(model\.safetensors\) is neither in"),
        ("absent.safetensors", "any", r"distill\.weights: .*absent\.safetensors does not exist"),
    ):
        with pytest.raises(UserError, match=says):
            hub.find_weights(weights, student, tmp_path, False)
    assert time.monotonic() - began < 10


def test_a_file_of_ones_own_has_no_licence_that_we_know(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "mine.safetensors")
    found = hub.find_weights("mine.safetensors", "any", tmp_path, False)
    assert found.path == tmp_path / "mine.safetensors"
    assert {**found.about(), "sha256": ""} == {
        "origin": "mine.safetensors",
        "licence": None,
        "revision": None,
        "sha256": "",
    }


def test_pickled_weights_are_not_read(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise EntryNotFoundError("404")

    monkeypatch.setattr(hub, "get_hf_file_metadata", absent)
    towers(cache, "timm/x", "pytorch_model.bin", "license: mit")
    with pytest.raises(UserError, match=r"has none of model\.safetensors, .* may hold code"):
        hub.find_weights("hf-hub:timm/x", "any", tmp_path, False)


def test_messages_name_the_parameter_that_asked(cache: Path, tmp_path: Path) -> None:
    for model, says in (
        ("hf-hub:imageomics/absent", r"^mine\.model: imageomics/absent \(open_clip_config\.json\) is neither in"),
        ("local-dir:absent", r"^mine\.model: no folder"),
        ("ViT-B-32", r"^mine\.weights: ViT-B-32 is only an architecture"),
    ):
        with pytest.raises(UserError, match=says):
            hub.find(model, None, tmp_path, what="mine")


def test_a_cache_that_lacks_the_model_card_needs_no_hub(cache: Path, tmp_path: Path) -> None:
    repository = cache / "models--imageomics--small"
    publish(repository / "snapshots" / "abc", "open_clip_model.safetensors")
    (repository / "snapshots" / "abc" / "README.md").unlink()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert hub.find("hf-hub:imageomics/small", None, tmp_path).licence is None
