"""A CLIP of a few thousand weights, and the folder in which hubs publish it."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

TEXTS = ["a photo of Bellis perennis.", "Bellis_perennis", "", "a photo of " + "Morus alba " * 40]
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3, "resize_mode": "shortest", "interpolation": "bicubic"},
}


def small() -> CLIP:
    torch.manual_seed(0)
    return CLIP(**CONFIG["model_cfg"]).eval()


def publish(folder: Path, weights: str, config: dict[str, Any] = CONFIG) -> Path:
    """A folder as hubs publish it."""
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlibrary_name: open_clip\nlicense: mit\n---\n# A model\n")
    state = small().state_dict()
    if weights.endswith("safetensors"):
        save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    return folder


def unigram(folder: Path) -> Path:
    """A tokenizer of T5's form, which SigLIP reads; it pads with its end of text."""
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator([*TEXTS, *string.ascii_lowercase], trainer)
    end = ("</s>", tokenizer.token_to_id("</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return written(
        folder,
        tokenizer,
        {"pad_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False}, "eos_token": "</s>"},
    )


def written(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def siglip(folder: Path) -> Path:
    """A sigmoid-trained model with its own tokenizer, in the form in which hubs publish SigLIP."""
    text = {**CONFIG["model_cfg"]["text_cfg"], "hf_tokenizer_name": "timm/small-SigLIP", "no_causal_mask": True}
    text |= {
        "context_length": 40,
        "pool_type": "last",
        "proj_bias": True,
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "vocab_size": 200,
    }
    model_cfg = {**CONFIG["model_cfg"], "text_cfg": text, "custom_text": True, "init_logit_bias": -10}
    config = {"model_cfg": model_cfg, "preprocess_cfg": {**CONFIG["preprocess_cfg"], "resize_mode": "squash"}}
    publish(folder, "open_clip_model.safetensors", config)
    torch.manual_seed(1)
    model = CustomTextCLIP(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
