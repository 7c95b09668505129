"""Teachers, which are open_clip models: build, save, load, embed.

A teacher is a folder in open_clip's hub layout with ``preprocess.json`` and ``teacher.json``.
"""

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP, _build_text_tower
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from torch import nn

from bioclip_lite.models import embedding_checks, text_towers, tokenizers
from bioclip_lite.photographs.preprocess import FILE as PREPROCESS_FILE
from bioclip_lite.photographs.preprocess import preprocessing, read_preprocess
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, replacing_folder, require, write_json
from bioclip_lite.utils.randomness import generator

TEACHER_WEIGHTS = "open_clip_model.safetensors"
TEACHER_CONFIG = "open_clip_config.json"
TEACHER_FILE = "teacher.json"
_PROBES = ("a photo of a daisy.", "a photo of a whale.", "a photo of Morus alba.", "a photo of Animalia Chordata Aves.")
_HISTORY = "history.parquet"  # of the training, which the stage puts into the folders of further teachers

Tokenize = Callable[[list[str]], torch.Tensor]
Clip = Any  # an open_clip model: an nn.Module with encode_image, encode_text and logit_scale


@dataclass(frozen=True)
class Teacher:
    """An open_clip model ready for use, in eval mode."""

    model: Clip  # encode_image(float32 [b, 3, size, size]), encode_text(int64 [b, context])
    tokenizer: Any  # list of str -> int64 [b, context]
    preprocess: dict[str, Any]
    logit_scale: float  # already exponentiated: logits = logit_scale * cosine
    about: dict[str, Any]  # content of teacher.json

    @property
    def identity(self) -> str:
        """SHA-256 over weights, configuration and preprocessing: equal identities give equal embeddings."""
        return str(self.about["identity"])


def build_clip(config: dict[str, Any]) -> CustomTextCLIP:
    """An open_clip model with random weights; ``config`` as in ``open_clip_config.json``.

    ``config["bioclip_lite"]`` has what open_clip's own configuration cannot express: ``image_tower_options``, further
    arguments of timm.create_model for a timm image tower; ``text_quick_gelu``, whether the text tower has OpenAI's
    GELU where the image tower has the other one; and ``text_mixer``, that it is that of MobileCLIP-S0.
    """
    model_cfg = {key: value for key, value in config["model_cfg"].items() if key != "custom_text"}
    vision, extra, tower = model_cfg["vision_cfg"], config["bioclip_lite"], None
    if "image_tower_options" in extra:
        # With "timm_proj" empty the projection is the network's own last layer.
        outputs = model_cfg["embed_dim"] if vision["timm_proj"] == "" else 0
        tower = image_tower(vision["timm_model_name"], extra["image_tower_options"], outputs)
    model = CustomTextCLIP(**copy.deepcopy(model_cfg))
    if tower is not None:
        model.visual.trunk = tower
    if "text_mixer" in extra:
        model.text = text_towers.of_mobileclip(model_cfg["text_cfg"], model_cfg["embed_dim"])
    elif "text_quick_gelu" in extra:
        model.text = _build_text_tower(
            model_cfg["embed_dim"], copy.deepcopy(model_cfg["text_cfg"]), extra["text_quick_gelu"]
        )
    return model


def image_tower(name: str, options: dict[str, Any], outputs: int = 0) -> nn.Module:
    """A timm model: float32 (b, 3, size, size) to (b, outputs), or to its pooled features if ``outputs`` is 0."""
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5)) or "see timm.list_models()"
        raise UserError(f"teacher: timm {timm.__version__} has no image tower {name!r}; did you mean: {near}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=outputs, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"teacher: timm cannot make the image tower {name} with {options}: {error}") from error


def open_clip_preprocess(config: dict[str, Any], where: object) -> dict[str, Any]:
    """Our ``preprocess.json`` for an ``open_clip_config.json``; UserError where it cannot be expressed."""
    cfg = merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg", {}))
    size = config["model_cfg"]["vision_cfg"].get("image_size", 224)
    if not isinstance(size, int):
        if len(set(size)) != 1:
            raise UserError(f"{where}: the teacher takes {size[1]} x {size[0]} pixels; only square input is supported")
        size = size[0]
    if cfg["resize_mode"] not in ("shortest", "squash"):
        raise UserError(f"{where}: resize mode {cfg['resize_mode']!r} is not supported, only shortest and squash")
    return preprocessing(size, cfg["mean"], cfg["std"], cfg["resize_mode"], cfg["interpolation"])


def save_teacher(
    folder: str | os.PathLike[str],
    model: Clip,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    kind: str,
    name: str,
    licence: str | None,
    revision: str | None = None,
    tokenizer: Path | None = None,
    allow_weak: bool = False,
) -> dict[str, Any]:
    """Write a teacher folder in open_clip's hub layout with ``preprocess.json``; returns its ``teacher.json``.

    ``tokenizer`` is the folder with the ``tokenizer.json`` of the text tower, None for CLIP's tokenizer. ``allow_weak``
    tells stage logits, which finds out what a published teacher knows, to go on with it whatever it is.
    """
    described = tokenizers.describe(config, tokenizer)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with replacing_folder(
        folder, (TEACHER_FILE, TEACHER_CONFIG, TEACHER_WEIGHTS, PREPROCESS_FILE, tokenizers.FILE, _HISTORY)
    ) as scratch:
        save_file(state, scratch / TEACHER_WEIGHTS)
        with (scratch / TEACHER_WEIGHTS).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        identified = json.dumps([sha256, config, preprocess, *([described] if tokenizer else [])], sort_keys=True)
        about: dict[str, Any] = {
            "kind": kind,
            "name": name,
            "licence": licence,
            "revision": revision,
            "weights_sha256": sha256,
            "identity": hashlib.sha256(identified.encode()).hexdigest(),
        }
        if allow_weak:
            about["allow_weak"] = True
        write_json(scratch / TEACHER_CONFIG, config)
        write_json(scratch / PREPROCESS_FILE, preprocess)
        write_json(scratch / tokenizers.FILE, described)
        write_json(scratch / TEACHER_FILE, about)
    return about


def load_teacher(folder: str | os.PathLike[str]) -> Teacher:
    """The teacher of a folder that ``save_teacher`` wrote, on the CPU."""
    folder = Path(folder)
    config = read_json(require(folder / TEACHER_CONFIG))
    about = read_json(require(folder / TEACHER_FILE))
    preprocess = read_preprocess(folder)
    if "bioclip_lite" in config:
        model: Clip = build_clip(config)
        model.load_state_dict(load_file(require(folder / TEACHER_WEIGHTS)), strict=True)
    else:
        model = open_clip.create_model(f"local-dir:{folder}")
    tokenizer = tokenizers.build(read_json(require(folder / tokenizers.FILE)))
    return Teacher(model.eval(), tokenizer, preprocess, float(model.logit_scale.exp().item()), about)


@torch.inference_mode()
def embed_images(model: Clip, pixels: torch.Tensor) -> torch.Tensor:
    """L2-normalised float32 (batch, D) embeddings by a teacher's ``model`` of preprocessed ``pixels``."""
    return nn.functional.normalize(model.encode_image(pixels).float(), dim=-1)


def cut(model: Clip, tokens: torch.Tensor) -> torch.Tensor:
    """int64 ``tokens`` (t, context), on the CPU, without what the text tower of ``model`` need not read: (t, length).

    A causal text tower reads no further than the longest text: the padding behind a caption changes nothing but the
    time, and captions fill about half of the context.
    """
    if _causal(model) is None:
        return tokens
    return tokens[:, : int(tokens.argmax(1).max()) + 1]  # where a text ends; a "!" in it may have the number of padding


def encode_text(model: Clip, tokens: torch.Tensor) -> torch.Tensor:
    """(t, D) embeddings, not normalised, of int64 ``tokens`` (t, length), whole or ``cut``, on the model's device."""
    text = _causal(model)
    if text is None:
        return model.encode_text(tokens)
    mask, length = text.attn_mask, tokens.shape[1]
    text.attn_mask = mask[:length, :length]
    try:
        return model.encode_text(tokens)
    finally:
        text.attn_mask = mask


def _causal(model: Clip) -> Any:
    """The text tower of ``model`` if no token in it sees those behind it, else None."""
    text = getattr(model, "text", None)
    if not (isinstance(text, TextTransformer) and text.pool_type == "argmax" and text.cls_emb is None):
        return None
    return None if text.attn_mask is None else text


@torch.inference_mode()
def embed_texts(teacher: Teacher, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """L2-normalised float32 (len(texts), D) embeddings of captions."""
    device = next(teacher.model.parameters()).device
    embedded = np.empty((len(texts), 0), np.float32)
    for start in range(0, len(texts), batch_size):
        tokens = machine.moved(cut(teacher.model, teacher.tokenizer(list(texts[start : start + batch_size]))), device)
        rows = nn.functional.normalize(encode_text(teacher.model, tokens).float(), dim=-1).cpu().numpy()
        if not start:
            embedded = np.empty((len(texts), rows.shape[1]), np.float32)
        embedded[start : start + len(rows)] = rows
    return embedded


@torch.inference_mode()
def check_sound(model: Clip, tokenizer: Tokenize, size: int, maker: str) -> None:
    """Raise UserError if weights are not finite, or embeddings of some pictures and captions are no numbers or all one.

    Args:
        model: an open_clip model, which is left in eval mode.
        tokenizer: its own, of list of str to int64 (b, context).
        size: of its pixels.
        maker: the model and its place, for the message.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            raise UserError(
                f"{maker}: {int((~finite).sum())} of {tensor.numel()} weights in {name} are NaN or infinite: the file "
                "is damaged, or its training diverged; take other weights"
            )
    device = next(model.parameters()).device
    drawn = np.stack([generator("teacher", "probe", k).normal(size=(3, 4, 4)) for k in range(len(_PROBES))])
    pictures = nn.functional.interpolate(torch.from_numpy(drawn.astype(np.float32)), size=(size, size))
    tokens = cut(model, tokenizer(list(_PROBES))).to(device)
    model.eval()
    for outputs, names, what in (
        (model.encode_image(pictures.to(device)), [f"picture {k}" for k in range(len(_PROBES))], "pictures"),
        (encode_text(model, tokens), _PROBES, "captions"),
    ):
        embeddings = nn.functional.normalize(outputs.float(), dim=-1).cpu().numpy()
        embedding_checks.check_finite(embeddings, names, maker)
        embedding_checks.check_varied(embeddings, f"{what} of a test", maker)
