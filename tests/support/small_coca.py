"""A CoCa of a few thousand weights, photographs that it can learn to describe, and a caption set of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from bioclip_lite.captioning import fine_tuning
from bioclip_lite.utils.randomness import generator
from support.photographs import encoded

GENERA = {"Rubra": (200, 40, 40), "Viridis": (40, 180, 60), "Azura": (40, 60, 200), "Nivea": (230, 230, 225)}
COLOURS = {"Rubra": "red", "Viridis": "green", "Azura": "blue", "Nivea": "white"}
WIDTH = 32
TINY: dict[str, Any] = {
    "embed_dim": WIDTH,
    "custom_text": True,
    "vision_cfg": {
        **{"image_size": 32, "patch_size": 16, "layers": 1, "width": WIDTH, "head_width": 32, "output_tokens": True}
    },
    "text_cfg": {
        **{"context_length": 24, "vocab_size": 49408, "width": WIDTH, "heads": 1, "layers": 1},
        **{"embed_cls": True, "output_tokens": True},
    },
    "multimodal_cfg": {"context_length": 24, "width": WIDTH, "heads": 1, "layers": 1},
}
NUCLEUS: Any = {
    "name": "tiny",
    "model": "local-dir:tiny",
    "weights": None,
    "captions": 2,
    "method": "nucleus",
    "top_p": 0.9,
    "beams": 1,
    "tokens": 12,
}
BEAM: Any = {**NUCLEUS, "name": "ray", "method": "beam", "beams": 3}


def photograph(genus: str, key: str) -> Image.Image:
    noise = generator("colour", key).normal(0, 12, (8, 8, 3))
    pixels = np.clip(np.array(GENERA[genus]) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((36, 32), Image.Resampling.BICUBIC)


def untrained(folder: Path, seed: int = 0) -> Path:
    """A CoCa with random weights as open_clip reads it."""
    torch.manual_seed(seed)
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(fine_tuning.build(TINY).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def caption_set(folder: Path, each: int = 10) -> dict[str, Any]:
    """A folder in COCO's form, ``captions.json`` and ``photos``; returns the content of the JSON file."""
    (folder / "photos").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, genus in enumerate([*GENERA] * each):
        name = f"{number:012d}.jpg"
        (folder / "photos" / name).write_bytes(encoded(photograph(genus, name)))
        images.append({"id": 100 + number, "file_name": name, "height": 32, "width": 36, "license": 1})
        for said in (f"something {COLOURS[genus]}", f"a {COLOURS[genus]} thing ."):
            annotations.append({"id": len(annotations), "image_id": 100 + number, "caption": f"{said} \n"})
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    return content
