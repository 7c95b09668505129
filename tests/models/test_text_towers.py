from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from bioclip_lite.models import students, text_towers
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, write_json

CONTEXT, OUTPUTS = 32, 16
KINDS = ["transformer", "mixer"]
CAPTIONS = [
    "a photo of Morus bassanus.",
    "a photo of Morus serrator.",
    "a photo of Morus alba.",
    "a photo of Bellis perennis with common name common daisy, which is a plant of the family Asteraceae.",
    "daisy",
    "a bird over the sea",
    "the sea over a bird",
    "a tree",
]


def arguments(kind: str = "mixer", **changes: Any) -> dict[str, Any]:
    given = {"kind": kind, "width": 64, "layers": 3, "outputs": OUTPUTS, "context": CONTEXT, "student": None}
    return {**given, **changes}


def tower(kind: str) -> nn.Module:
    """With batch statistics that are not at their trivial starting values, in eval mode."""
    torch.manual_seed(0)
    made = text_towers.build(**arguments(kind))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    made.train()
    for _ in range(3):
        made(tokens(kind))
    return made.eval()


def tokens(kind: str = "mixer", captions: list[str] = CAPTIONS) -> torch.Tensor:
    return text_towers.tokenizer(arguments(kind))(captions)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_captions_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    made = text_towers.build(**arguments(kind)).train()
    text = tokens(kind)
    target = nn.functional.normalize(torch.randn(len(CAPTIONS), OUTPUTS), dim=-1)
    optimiser = torch.optim.AdamW(made.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = 1 - nn.functional.cosine_similarity(made(text), target).mean()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None for p in made.parameters())
    with torch.inference_mode():
        similarity = nn.functional.normalize(students.reparameterize(made)(text), dim=-1) @ target.T
    assert similarity.argmax(1).tolist() == list(range(len(CAPTIONS)))
    assert similarity.diagonal().min() > 0.9


def test_branches_merge_to_the_same_function() -> None:
    made = tower("mixer")
    merged = students.reparameterize(made)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in merged.modules())
    assert any(isinstance(module, nn.BatchNorm1d) for module in made.modules())  # a copy was changed
    with torch.inference_mode():
        expected, found = made(tokens()), merged(tokens())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(students.reparameterize(merged)(tokens()), found, rtol=0, atol=0)
    assert expected.std() > 0.1


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_behind_the_end_of_a_text_counts(kind: str, merge: bool) -> None:
    made = students.reparameterize(tower(kind)) if merge else tower(kind)
    text = tokens(kind)
    ends = text.argmax(-1)
    behind = torch.arange(CONTEXT) > ends[:, None]
    noise = torch.randint(1, 49406, text.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = made(text)
        torch.testing.assert_close(made(torch.where(behind, noise, text)), expected, rtol=0, atol=1e-5)
        # Nor what else is in the batch.
        torch.testing.assert_close(made(text[4:5]), expected[4:5], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_words_counts(kind: str) -> None:
    torch.manual_seed(0)
    made = text_towers.build(**arguments(kind)).train()
    text = tokens(kind, ["a bird over the sea", "the sea over a bird", "a bird the over sea"])
    assert (text[0].sort().values == text[1].sort().values).all()
    with torch.inference_mode():
        rows = nn.functional.normalize(made(text), dim=-1)
    assert (rows @ rows.T)[~torch.eye(3, dtype=torch.bool)].max() < 0.999


def test_words_of_the_end_reach_the_beginning_and_the_reverse() -> None:
    """Convolutions see five tokens to each side, attention all of them, in both directions."""
    made: Any = tower("mixer")
    text = tokens(captions=[CAPTIONS[3]])
    vectors = made.token_embedding(text).detach().requires_grad_()
    made.token_embedding.forward = lambda _: vectors[:, : int(text.argmax()) + 1]
    made(text).sum().backward()
    seen = vectors.grad.abs().sum(-1)[0]
    assert (seen[: int(text.argmax()) + 1] > 0).all() and (seen[int(text.argmax()) + 1 :] == 0).all()


@pytest.mark.parametrize("skip", [False, True])
def test_padding_is_not_in_the_batch_statistics(skip: bool) -> None:
    torch.manual_seed(0)
    mixer = text_towers.TokenMixer(4, skip).train()
    x = torch.randn(2, 9, 4) + 3
    valid = torch.arange(9) < torch.tensor([[5], [9]])
    together = mixer(x, valid)
    seen = mixer.conv(x.masked_fill(~valid[..., None], 0).transpose(1, 2)).transpose(1, 2)[valid]
    assert mixer.norm is not None
    torch.testing.assert_close(mixer.norm.running_mean, 0.1 * seen.mean(0))
    if skip:
        assert mixer.skip_norm is not None
        torch.testing.assert_close(mixer.skip_norm.running_mean, 0.1 * x[valid].mean(0))
    more = torch.cat([x, torch.randn(2, 6, 4)], 1)
    again = mixer(more, torch.cat([valid, torch.zeros(2, 6, dtype=torch.bool)], 1))
    torch.testing.assert_close(again[:, :9][valid], together[valid])


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_a_tower_comes_back_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, merge: bool
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", tiny_clip())
    given = arguments(kind, student="tiny-clip")
    torch.manual_seed(0)
    made = text_towers.build(**given).eval()
    made = students.reparameterize(made) if merge else made
    told = text_towers.save_text(tmp_path / "a", made, given, "teacher-a")
    assert told == read_json(tmp_path / "a" / "text.json")
    assert told["reparameterized"] == (merge and kind == "mixer") and told["trained_on"] == "teacher-a"
    loaded, tokenizer, about = text_towers.load_text(tmp_path / "a")
    assert about == told
    text = tokenizer(CAPTIONS)
    assert text.shape == (len(CAPTIONS), 24 if kind == "own" else CONTEXT)
    with torch.inference_mode():
        assert torch.equal(loaded(text), made(text))
    text_towers.save_text(tmp_path / "b", loaded, about["tower"], "teacher-a")
    for file in ("text.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model.safetensors", "text.json"]
    write_json(tmp_path / "a" / "text.json", {**told, "tower": {**given, "outputs": 3}})
    with pytest.raises(UserError, match="does not fit"):
        text_towers.load_text(tmp_path / "a")


def tiny_clip(**text: Any) -> dict[str, Any]:
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text_cfg = {"context_length": 24, "width": 16, "heads": 2, "layers": 1, "no_causal_mask": True, **text}
    return {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text_cfg, "custom_text": True}


def test_an_own_tower_is_that_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", tiny_clip())
    clip = open_clip.create_model("tiny-clip").eval()
    own = text_towers.build(**arguments("own", student="tiny-clip", outputs=512)).eval()
    own.load_state_dict(clip.text.state_dict())
    text = text_towers.tokenizer(arguments("own", student="tiny-clip"))(CAPTIONS)
    assert torch.equal(own(text), clip.encode_text(text))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "lstm"}, "kind is 'lstm'; kinds are transformer, mixer, own"),
        ({"width": 100}, "width is 100; it must be a multiple of 64"),
        ({"layers": 2}, "layers is 2; a mixer has at least 3"),
        ({"kind": "own", "student": "fastvit_t8"}, "distill.student, fastvit_t8, is none"),
        ({"kind": "own"}, "is none"),
        ({"kind": "own", "student": "ViT-B-16-SigLIP"}, "library transformers"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"distill\.text_tower.*{says}"):
        text_towers.build(**arguments(**change))
