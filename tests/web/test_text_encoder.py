"""Names that the bundle lacks: the text tower as a graph, and the files that a browser reads."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import nn
from torch.nn.functional import cosine_similarity

from bioclip_lite.graph import execution
from bioclip_lite.models import teachers, text_towers, tokenizers
from bioclip_lite.stages import convert
from bioclip_lite.utils import sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json
from bioclip_lite.web import javascript, manifest, text_encoder
from bioclip_lite.web.text_graph import fold_text
from support import keys
from support.fake_data import save_teacher
from support.lessons import make_data

CONTEXT, WIDTH = 12, 64
MIXER: Any = {"kind": "mixer", "width": WIDTH, "layers": 4, "outputs": 16, "context": 24, "student": None}
PARAMS: sections.Convert = {
    "images": 1,
    "tolerance": 1e-4,
    "taxa_bytes": None,
    "over_budget": "refuse",
    "whole_table": None,
    "sign_with": None,
    "onnx": [],
    "tflite": False,
    "text_encoder": "teacher",
    "lists": [],
    "prior": None,
}


def tower(**changes: Any) -> TextTransformer:
    torch.manual_seed(0)
    given = {"context_length": CONTEXT, "vocab_size": 50, "width": WIDTH, "heads": 2, "layers": 2, "output_dim": 8}
    made = TextTransformer(**{**given, **changes})
    for name, parameter in made.named_parameters():  # no part at a starting value that hides it
        if "ln_" in name or "bias" in name or "gamma" in name:
            nn.init.normal_(parameter, 0.5, 0.5)
    return made.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"act_layer": QuickGELU}, {"no_causal_mask": True}, {"ls_init_value": 0.5}, {"proj_bias": True}],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_the_graph_is_the_tower(changes: dict[str, Any]) -> None:
    made = tower(**changes)
    tokens = torch.tensor([[1, 5, 7, 49, *[0] * 8], [1, *range(10, 20), 49], [1, 49, *[0] * 10]])
    inputs = made.token_embedding(tokens) + made.positional_embedding
    folded, weights = fold_text(made)
    found = execution.run(folded, weights, inputs.detach().permute(0, 2, 1)[..., None])[..., 0]
    at_end = found[torch.arange(3), :, tokens.argmax(1)]
    expected = made(tokens).detach()
    assert torch.allclose(at_end, expected, atol=1e-4 * float(expected.abs().max()))
    # Linear parts are merged: two norms, two additions, attention and four layers in a block.
    assert not [node for node in folded["nodes"] if node["op"] in ("affine", "depthwise")]
    assert len(folded["nodes"]) <= 2 * 11 + 2


def mixer() -> Any:
    """A mixer with statistics of its own, not merged."""
    torch.manual_seed(0)
    made = text_towers.build("mixer", WIDTH, 4, 16, 24)
    with torch.no_grad():
        made.train()(torch.randint(1, 40_000, (8, 24)))
    return made.eval()


def test_the_graph_of_a_mixer_is_the_mixer() -> None:
    made = mixer()
    tokens = text_towers.tokenizer(MIXER)(["a bird", "", "a photo of Morus bassanus over the sea " * 3])
    ends = tokens.argmax(1)
    embedding, positions = made.token_embedding.weight.detach().numpy(), made.positional_embedding.detach().numpy()
    inputs = text_encoder._inputs(tokens, ends, embedding, positions, True)
    folded, weights = fold_text(made)
    found = execution.run(folded, weights, inputs)[torch.arange(3), :, ends, 0]
    expected = made(tokens).detach()
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    inputs[:, :-1] = inputs[:, :-1].where(inputs[:, -1:] == 1, 7.0)  # padding of any kind
    assert torch.equal(found, execution.run(folded, weights, inputs)[torch.arange(3), :, ends, 0])
    assert not [node for node in folded["nodes"] if node["op"] == "affine"]


def test_what_follows_changes_nothing_in_a_tower_that_looks_back() -> None:
    folded, weights = fold_text(tower())
    one = torch.randn(1, WIDTH, CONTEXT, 1)
    other = one.clone()
    other[:, :, 5:] = torch.randn(1, WIDTH, CONTEXT - 5, 1)
    first, second = execution.run(folded, weights, one), execution.run(folded, weights, other)
    assert torch.equal(first[:, :, :5], second[:, :, :5])
    assert not torch.allclose(first[:, :, 5:], second[:, :, 5:], atol=0.1)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: tower(embed_cls=True), "a class token"),
        (lambda: tower(act_layer=nn.SiLU), "SiLU"),
        (lambda: tower(scale_heads=True, block_type="custom"), "CustomResidualAttentionBlock"),
        (lambda: nn.Linear(1, 1), "Linear has no blocks of open_clip"),
    ],
)
def test_what_the_web_model_lacks_is_named(made: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        fold_text(made())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    save_teacher(folder)
    private, _ = keys.make_pair(folder.parent / "keys")
    convert.run({**PARAMS, "sign_with": str(private)}, folder, "text")
    return folder


def in_node(folder: Path, texts: list[str], scratch: Path) -> dict[str, Any]:
    write_json(scratch / "texts.json", texts)
    found: dict[str, Any] = json.loads(javascript.node("text", [str(folder), str(scratch / "texts.json")], "the test"))
    return found


def test_javascript_reads_as_the_teacher_does(data: Path, tmp_path: Path) -> None:
    teacher = teachers.load_teacher(data / "teacher" / "model")
    texts = [
        "a photo of Morus bassanus.",
        "Gattung Taraxacum: L\u00f6wenzahn (\u00c4stiger Pippau?)",
        "\u9ce5\u985e \u6728 \u30ab\u30e2\u30e1",
        "it's the KING's 12345 x-ray; don't they'll we've I'm he'd",
        "&lt;b&gt; R&amp;D &amp;amp; &#233;t&#xe9; \U0001f98b\U0001f1e9\U0001f1ea e\u0301",
        "supercalifragilisticexpialidocious" * 5,
        "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\n\ttabs  and\u00a0hard spaces ",
    ]
    found = in_node(data / "convert" / "text", texts, tmp_path)
    assert found["tokens"] == teacher.tokenizer(texts).tolist()
    expected = torch.from_numpy(teachers.embed_texts(teacher, texts))
    cosines = cosine_similarity(torch.tensor(found["embeddings"]), expected)
    assert cosines.min() > 0.995 and cosines.mean() > 0.999, cosines  # 8 bits; a trained tower loses a tenth of it
    among = expected @ expected.T
    assert (among - torch.eye(len(texts))).max() < 0.99  # or the last line would say little


def test_the_description_fits_the_files(data: Path) -> None:
    folder = data / "convert" / "text"
    about = read_json(folder / text_encoder.FILE)
    names = manifest.verify(folder, manifest.read_public_key(data.parent / "keys" / "signing.pub.pem"))
    assert names == [text_encoder.FILE, *sorted(about["files"])]
    assert {file.name for file in folder.iterdir()} == {*names, "text.json.sig"}
    assert about["bytes"] == sum((folder / name).stat().st_size for name in about["files"])
    assert max(file["bytes"] for file in about["files"].values()) <= 4 * 1024 * 1024
    assert about["teacher_identity"] == read_json(data / "teacher" / "model" / "teacher.json")["identity"]
    assert about["measured"]["bytes_per_parameter"] <= 1.05 and about["measured"]["cosine"]["mean"] > 0.999
    merges = (folder / about["merges"]["file"]).read_text().splitlines()
    assert merges == [" ".join(pair) for pair in open_clip.SimpleTokenizer().bpe_ranks]


def test_a_damaged_file_is_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    subprocess.run(["cp", "-r", data / "convert" / "text", folder], check=True)
    positions = folder / read_json(folder / text_encoder.FILE)["positions"]["file"]
    content = np.fromfile(positions, np.float32)
    content[0] += 1
    content.tofile(positions)
    with pytest.raises(UserError, match=positions.name):
        in_node(folder, ["a bird"], tmp_path)


def test_a_tokenizer_that_splits_otherwise_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ("index", "shard"):
        (tmp_path / name).symlink_to(data / name)
    subprocess.run(["cp", "-r", data / "teacher", tmp_path], check=True)
    described = read_json(file := tmp_path / "teacher" / "model" / tokenizers.FILE)
    write_json(file, {**described, "options": {"clean": "canonicalize"}})  # as SigLIP: no punctuation
    with pytest.raises(UserError, match="tokenizer of this tower splits"):
        convert.run(PARAMS, tmp_path, "text")
    assert not (tmp_path / "convert" / "text").exists()


def test_the_student_reads_too_or_it_is_said_why_not(data: Path, tmp_path: Path) -> None:
    for name in ("index", "shard", "teacher"):
        (tmp_path / name).symlink_to(data / name)
    params: sections.Convert = {**PARAMS, "text_encoder": "student"}
    with pytest.raises(UserError, match=r"distill/text is missing: set distill.text_tower"):
        convert.run(params, tmp_path, "text")
    made = mixer()
    text_towers.save_text(tmp_path / "distill" / "text", made, MIXER, "another teacher")
    with pytest.raises(UserError, match="trained on another teacher"):
        convert.run(params, tmp_path, "text")
    identity = read_json(data / "teacher" / "model" / "teacher.json")["identity"]
    text_towers.save_text(tmp_path / "distill" / "text", made, MIXER, identity)
    convert.run(params, tmp_path, "text")
    texts = ["a gannet over the sea", "", "Morus bassanus " * 20]
    found = in_node(tmp_path / "convert" / "text", texts, tmp_path)
    with torch.inference_mode():
        expected = made(text_towers.tokenizer(MIXER)(texts))
    assert cosine_similarity(torch.tensor(found["embeddings"]), expected).min() > 0.999


def test_other_jobs_are_named(data: Path) -> None:
    with pytest.raises(UserError, match="convert has no job 'tfjs'; its jobs are bundle, text"):
        convert.run(PARAMS, data, "tfjs")
    with pytest.raises(UserError, match=r"its jobs are bundle, lists"):
        convert.run({**PARAMS, "text_encoder": None}, data, "text")
