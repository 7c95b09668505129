"""MobileCLIP-S0, which open_clip lacks, from the checkpoint that Apple publishes."""

from pathlib import Path

import pytest
import torch

from bioclip_lite.graph import execution
from bioclip_lite.models import hub, teachers, tokenizers
from bioclip_lite.utils.errors import UserError
from bioclip_lite.web.text_graph import fold_text
from support import apple_clip

TEXTS = ["a photo of Morus alba.", "", "Bellis perennis " * 9]


def test_apples_checkpoint_computes_what_its_own_branches_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apple_clip.smaller(monkeypatch)
    state = apple_clip.checkpoint()
    torch.save(state, tmp_path / "mobileclip_s0.pt")
    published = hub.find("mobileclip_s0.pt", None, tmp_path)
    model = hub.load(published).eval()
    pixels = torch.rand(2, 3, 32, 32)
    tokens = tokenizers.of_clip(published.config)(TEXTS)
    assert tokens.shape == (3, apple_clip.CONTEXT)
    with torch.inference_mode():
        expected = apple_clip.read(state, tokens)
        assert torch.equal(model.encode_image(pixels), apple_clip.image_tower()(pixels))
        torch.testing.assert_close(model.encode_text(tokens), expected, rtol=1e-4, atol=1e-4)
    assert model.logit_scale.item() == 4.0
    spec = teachers.open_clip_preprocess(published.config, "here")
    assert (spec["size"], spec["mean"], spec["std"]) == (32, [0.0] * 3, [1.0] * 3)
    assert (spec["resize"], spec["interpolation"]) == ("shortest", "bilinear")

    # As a teacher, and in the web model; padding is text to it.
    teachers.save_teacher(tmp_path / "t", model, published.config, spec, "pretrained", "S0", None)
    loaded = teachers.load_teacher(tmp_path / "t").model
    with torch.inference_mode():
        assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))
    inputs = loaded.text.token_embedding(tokens) + loaded.text.positional_embedding
    graph, weights = fold_text(loaded.text)
    found = execution.run(graph, weights, inputs.detach().permute(0, 2, 1)[..., None])[..., 0]
    torch.testing.assert_close(found[torch.arange(3), :, tokens.argmax(1)], expected, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_that_lacks_a_tensor_or_has_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apple_clip.smaller(monkeypatch)
    for name in (
        "",
        "text_encoder.transformer.1.pre_norm_ffn.4.bias",
        "text_encoder.transformer.0.layer_scale",
        "image_encoder.model.head.proj",
    ):
        state = apple_clip.checkpoint()
        if name:
            del state[name]
        else:
            state["text_encoder.transformer.1.another.weight"] = torch.zeros(1)
        torch.save(state, tmp_path / "mobileclip_s0.pt")
        with pytest.raises(UserError, match=r"cannot load it as MobileCLIP-S0 \(mobileclip_s0\.pt\)"):
            hub.load(hub.find("mobileclip_s0.pt", None, tmp_path))
