"""Students (timm image models) and teachers (open_clip models): build, save, load.

A model is a folder: a JSON description, plain safetensors and the preprocessing it was made for. A pruned student is
described by the layers whose shapes differ from the architecture's, so it loads as an ordinary model.
"""

import copy
import difflib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import TextTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import Attention as ViTAttention
from timm.layers import get_act_layer, resample_abs_pos_embed
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.fastvit import ConvMlp
from timm.models.tiny_vit import Attention as TinyViTAttention
from timm.utils.model import reparameterize_model
from torch import nn

from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json, replacing_folder, require, write_json
from bioclip_lite.preprocess import FILE as PREPROCESS_FILE
from bioclip_lite.preprocess import preprocessing, read_preprocess

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "student.json"
TEACHER_WEIGHTS = "open_clip_model.safetensors"
TEACHER_CONFIG = "open_clip_config.json"
TEACHER_FILE = "teacher.json"
_HISTORY = "history.parquet"  # of the training, which the stage puts beside some models
_IN_CLIP = "visual.trunk."  # how the names of a timm image tower begin in the weights of an open_clip model


# Students


class PrunableAttention(FastVitAttention):
    """FastViT's attention whose heads may span fewer channels than it reads and writes.

    timm reshapes the heads to the number of input channels, which is true only until a head is pruned. The numbers
    are the same; only the two reshapes differ from timm/models/fastvit.py.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to the same shape."""
        b, _, h, w = x.shape
        x = x.flatten(2).transpose(-2, -1)
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            x = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        else:
            x = self.attn_drop((q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
        x = x.transpose(1, 2).reshape(b, h * w, self.num_heads * self.head_dim)
        x = self.proj_drop(self.proj(x))
        return x.transpose(-2, -1).reshape(b, -1, h, w)


class PrunableViTAttention(ViTAttention):
    """timm's attention of ViTs, whose scores keep the architecture's scale when the heads lose dimensions.

    The numbers are the same as timm's, whose fused attention takes the scale from the dimensions that it finds.
    """

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False) -> torch.Tensor:
        """(batch, tokens, channels) to the same shape."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal, scale=self.scale
        )
        mixed = self.norm(mixed.transpose(1, 2).reshape(b, n, self.attn_dim))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed))


class PrunableTinyViTAttention(TinyViTAttention):
    """TinyViT's attention, likewise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch x windows, tokens, channels) to the same shape."""
        bias = self.get_attention_biases(x.device)
        b, n, _ = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, self.num_heads, -1)
        q, k, v = (part.transpose(1, 2) for part in qkv.split([self.key_dim, self.key_dim, self.val_dim], dim=3))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, self.out_dim))


# timm's attention to the same with heads that can be pruned: other reshapes, or another place for the scale.
_PRUNABLE: dict[type, type] = {
    FastVitAttention: PrunableAttention,
    ViTAttention: PrunableViTAttention,
    TinyViTAttention: PrunableTinyViTAttention,
}


def student_spec(
    architecture: str,
    options: dict[str, Any],
    outputs: int,
    image_size: int,
    trained_on: str | None = None,
    initial_weights: dict[str, Any] | None = None,
    teachers: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of a ``student.json`` for a student that is neither re-parameterised nor pruned.

    ``outputs`` is the length of the embedding (of the logits, for the control); ``image_size`` in pixels;
    ``trained_on`` the identity of the teacher whose space the student answers in; ``initial_weights`` where the weights
    that it started from come from, as hub.Weights.about says it, None for random ones; ``teachers`` the names of those
    whose caches taught it.
    """
    return {
        "architecture": architecture,
        "options": options,
        "outputs": outputs,
        "image_size": image_size,
        "reparameterized": False,
        "shapes": {},
        "trained_on": trained_on,
        "initial_weights": initial_weights,
        "teachers": list(teachers),
    }


def build_student(spec: dict[str, Any]) -> nn.Module:
    """The architecture of ``spec`` with random weights, before pruning; draws from torch's random numbers.

    Maps float32 (batch, 3, image_size, image_size) to float32 (batch, outputs), an embedding that is not normalised.
    The name of an open_clip model with a timm image tower (MobileCLIP2-S0 ...) stands for that tower; its projection is
    a linear last layer. Models that are made for one size of images (ViT) are made for this one.
    Options are timm's. ``act_layer`` may be a name (relu, silu, gelu ...) for every model; ``mlp_kernel`` is the side
    of the depthwise convolutions in FastViT's MLPs, 7 unless it is given. Both decide how fast a browser is.
    Raises UserError if neither library knows the architecture, or timm an option.
    """
    name, outputs = spec["architecture"], spec["outputs"]
    tower, own = timm_model(name)
    published = timm.get_pretrained_cfg(tower)
    if published is not None and published.fixed_input_size:
        own["img_size"] = spec["image_size"]
    options = {**own, **spec["options"]}
    kernel = options.pop("mlp_kernel", None)
    try:
        if isinstance(options.get("act_layer"), str):
            options["act_layer"] = get_act_layer(options["act_layer"])
        model = timm.create_model(tower, pretrained=False, num_classes=outputs, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        why = str(error) or type(error).__name__
        raise UserError(f"distill.student_options: timm cannot make {name} with {spec['options']}: {why}") from error
    if kernel is not None:
        _set_mlp_kernel(model, name, kernel)
    for module in model.modules():
        module.__class__ = _PRUNABLE.get(type(module), type(module))
    return reparameterize(model) if spec["reparameterized"] else model


def _set_mlp_kernel(model: nn.Module, name: str, side: int) -> None:
    layers = [module.conv for module in model.modules() if isinstance(module, ConvMlp)]
    if not layers or type(side) is not int or side < 1 or side % 2 == 0:
        raise UserError(
            f"distill.student_options: mlp_kernel is {side!r}; it takes an odd number of pixels, and a FastViT "
            f"(distill.student is {name})"
        )
    for layer in layers:
        old = layer.conv
        layer.conv = nn.Conv2d(
            old.in_channels, old.out_channels, side, padding=side // 2, groups=old.groups, bias=old.bias is not None
        )
        nn.init.trunc_normal_(layer.conv.weight, std=0.02)  # as timm does with those it makes


def timm_model(name: str) -> tuple[str, dict[str, Any]]:
    """(name of a timm model, further arguments of timm.create_model) that the name of a student stands for.

    Raises UserError with the nearest names of timm and open_clip if it stands for none.
    """
    if timm.is_model(name) and ("." not in name or name in _tagged(name)):
        return name, {}
    if name not in open_clip.list_models():
        raise UserError(
            f"distill.student: neither timm {timm.__version__} nor open_clip {open_clip.__version__} has a model "
            f"{name!r}; did you mean: {', '.join(_nearest(name)) or 'see timm.list_models()'}"
        )
    vision = open_clip.get_model_config(name)["vision_cfg"]
    if not _can_be_student(vision):
        raise UserError(
            f"distill.student: the image tower of open_clip's {name} is no timm model that ends in one linear layer; "
            f"choose a timm model, or another of open_clip's, e.g. MobileCLIP2-S0"
        )
    arguments = {"global_pool": vision.get("timm_pool"), "drop_path_rate": vision.get("timm_drop_path")}
    return vision["timm_model_name"], {key: value for key, value in arguments.items() if value not in (None, "")}


def _can_be_student(vision: dict[str, Any]) -> bool:
    """Whether an open_clip model's ``vision_cfg`` is a timm model with at most a linear layer behind it."""
    pooled_by_timm = vision.get("timm_pool") not in ("abs_attn", "rot_attn")
    return "timm_model_name" in vision and pooled_by_timm and vision.get("timm_proj") != "mlp"


def _tagged(name: str) -> list[str]:
    """The names with a tag (fastvit_t8.apple_in1k) of the timm model that ``name`` is, with or without one."""
    return timm.list_models(f"{name.split('.')[0]}.*", include_tags=True)


def _nearest(name: str) -> list[str]:
    if timm.is_model(name):  # so it is the tag that is wrong
        return _tagged(name)
    clips = [
        other for other in open_clip.list_models() if _can_be_student(open_clip.get_model_config(other)["vision_cfg"])
    ]
    known = {other.lower(): other for other in [*timm.list_models(), *clips]}
    return [known[other] for other in difflib.get_close_matches(name.lower(), known, n=5)]


def reparameterize(model: nn.Module) -> nn.Module:
    """A copy with training-time branches merged (FastViT, MobileOne, RepViT ...); same function, faster.

    Others are copied unchanged. Set ``spec["reparameterized"] = True`` when saving the result.
    """
    return reparameterize_model(model.eval(), inplace=False)


def _shape(module: nn.Module) -> dict[str, int] | None:
    """The sizes that pruning may change and that a layer keeps beside its weights."""
    if isinstance(module, nn.Conv2d):
        return {"in": module.in_channels, "out": module.out_channels, "groups": module.groups}
    if isinstance(module, nn.Linear):
        return {"in": module.in_features, "out": module.out_features}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return {"channels": module.num_features}
    if isinstance(module, nn.LayerNorm):
        return {"channels": module.normalized_shape[-1]}
    if isinstance(module, TinyViTAttention):
        return {"heads": module.num_heads, "key_dim": module.key_dim, "val_dim": module.val_dim}
    if hasattr(module, "qkv") and hasattr(module, "num_heads") and hasattr(module, "head_dim"):
        return {"heads": int(module.num_heads), "head_dim": int(module.head_dim)}  # type: ignore[arg-type]
    return None


def _set_shape(module: nn.Module, shape: dict[str, int]) -> None:
    if isinstance(module, nn.Conv2d):
        module.in_channels, module.out_channels, module.groups = shape["in"], shape["out"], shape["groups"]
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = shape["in"], shape["out"]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.num_features = shape["channels"]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], shape["channels"])
    elif isinstance(module, TinyViTAttention):
        module.num_heads, module.key_dim, module.val_dim = shape["heads"], shape["key_dim"], shape["val_dim"]
        module.out_dim = module.num_heads * module.val_dim
    else:
        heads, head_dim = shape["heads"], shape["head_dim"]
        module.num_heads, module.head_dim = heads, head_dim  # type: ignore[assignment]
        if hasattr(module, "attn_dim"):
            module.attn_dim = heads * head_dim  # type: ignore[assignment]


def shapes(model: nn.Module, base: nn.Module) -> dict[str, dict[str, int]]:
    """The layers of ``model`` whose shapes differ from the unpruned ``base``: {layer name: {size name: size}}."""
    before = {name: _shape(module) for name, module in base.named_modules()}
    after = {name: _shape(module) for name, module in model.named_modules()}
    return {name: shape for name, shape in after.items() if shape is not None and shape != before.get(name)}


def reshape(model: nn.Module, shapes: dict[str, dict[str, int]], state: dict[str, torch.Tensor]) -> None:
    """Give the layers of ``model``, in place, the ``shapes`` and the tensors of ``state`` (name to tensor)."""
    modules = dict(model.named_modules())
    for name, shape in shapes.items():
        _set_shape(modules[name], shape)
    for name, tensor in state.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = modules.get(owner_name)
        current = getattr(owner, attribute, None)
        if isinstance(current, torch.Tensor) and current.shape != tensor.shape:
            resized = torch.empty_like(tensor)
            setattr(owner, attribute, nn.Parameter(resized) if isinstance(current, nn.Parameter) else resized)
    model.load_state_dict(state, strict=True)


def save_student(
    folder: str | os.PathLike[str], model: nn.Module, spec: dict[str, Any], preprocess: dict[str, Any]
) -> dict[str, Any]:
    """Write ``student.json``, ``model.safetensors`` and ``preprocess.json``; returns the spec as written.

    ``spec["shapes"]`` is found by comparing ``model`` with the architecture, so a pruned model needs nothing more
    than an honest ``spec["reparameterized"]``. Equal models are equal bytes.
    """
    base = build_student(spec)
    if set(model.state_dict()) != set(base.state_dict()):
        raise ValueError(f"the model is not a {spec['architecture']} with reparameterized={spec['reparameterized']}")
    spec = {**spec, "shapes": shapes(model, base)}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing_folder(folder, (SPEC_FILE, PREPROCESS_FILE, WEIGHTS_FILE, _HISTORY)) as scratch:
        write_json(scratch / SPEC_FILE, spec)
        write_json(scratch / PREPROCESS_FILE, preprocess)
        save_file(state, scratch / WEIGHTS_FILE)
    return spec


def load_student(folder: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """(model in eval mode on the CPU, spec, preprocessing) of a folder that ``save_student`` wrote."""
    folder = Path(folder)
    spec = read_json(require(folder / SPEC_FILE))
    preprocess = read_preprocess(folder)
    state = load_file(require(folder / WEIGHTS_FILE))
    model = build_student(spec)
    try:
        reshape(model, spec["shapes"], state)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{folder}: {WEIGHTS_FILE} does not fit {SPEC_FILE} ({str(error).splitlines()[0]}); both are written "
            f"together, so one was replaced: make the folder again"
        ) from error
    return model.eval(), spec, preprocess


def load_initial_weights(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Start from the safetensors at ``path``, in place; returns the names of the model's tensors it does not give.

    The file holds a timm model, or an open_clip model with one as its image tower. A tensor of another size (usually
    the head, which was made for other classes) is left at its random values; position embeddings are resampled.
    Raises UserError if it is no safetensors file, or less than half of the model's tensors are found.
    """
    try:
        given = {name.removeprefix(_IN_CLIP): tensor for name, tensor in load_file(require(path)).items()}
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error}); weights in other formats are not read") from error
    own = model.state_dict()
    position = given.get("pos_embed")
    if position is not None and "pos_embed" in own and position.shape[1] != own["pos_embed"].shape[1]:
        grid = list(model.patch_embed.grid_size)  # type: ignore[union-attr,arg-type]
        prefix = own["pos_embed"].shape[1] - math.prod(grid)  # class token and the like
        given["pos_embed"] = resample_abs_pos_embed(position, grid, num_prefix_tokens=prefix)
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{path}: only {len(fitting)} of the model's {len(own)} tensors are in this file; it belongs to another "
            f"architecture or other options"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


# Teachers

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
    """An open_clip model with a timm image tower and random weights; ``config`` as in ``open_clip_config.json``.

    ``config["bioclip_lite"]["image_tower_options"]`` are further arguments of timm.create_model, which open_clip's
    own configuration cannot express.
    """
    model_cfg = {key: value for key, value in config["model_cfg"].items() if key != "custom_text"}
    vision, options = model_cfg["vision_cfg"], config["bioclip_lite"]["image_tower_options"]
    # With "timm_proj" empty the projection is the network's own last layer.
    tower = image_tower(vision["timm_model_name"], options, model_cfg["embed_dim"] if vision["timm_proj"] == "" else 0)
    model = CustomTextCLIP(**copy.deepcopy(model_cfg))
    model.visual.trunk = tower
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
) -> dict[str, Any]:
    """Write a teacher folder in open_clip's hub layout with ``preprocess.json``; returns its ``teacher.json``."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with replacing_folder(
        folder, (TEACHER_FILE, TEACHER_CONFIG, TEACHER_WEIGHTS, PREPROCESS_FILE, _HISTORY)
    ) as scratch:
        save_file(state, scratch / TEACHER_WEIGHTS)
        with (scratch / TEACHER_WEIGHTS).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        facts = json.dumps([sha256, config, preprocess], sort_keys=True)
        about = {
            "kind": kind,
            "name": name,
            "licence": licence,
            "revision": revision,
            "weights_sha256": sha256,
            "identity": hashlib.sha256(facts.encode()).hexdigest(),
        }
        write_json(scratch / TEACHER_CONFIG, config)
        write_json(scratch / PREPROCESS_FILE, preprocess)
        write_json(scratch / TEACHER_FILE, about)
    return about


def tokenizer_of(config: dict[str, Any]) -> open_clip.SimpleTokenizer:
    """The tokenizer of an open_clip model; ``config`` is the content of its open_clip_config.json."""
    text = config["model_cfg"]["text_cfg"]
    return open_clip.SimpleTokenizer(
        context_length=text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})
    )


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
    return Teacher(model.eval(), tokenizer_of(config), preprocess, float(model.logit_scale.exp().item()), about)


@torch.inference_mode()
def embed_images(model: Clip, pixels: torch.Tensor) -> torch.Tensor:
    """L2-normalised float32 (batch, D) embeddings by a teacher's ``model`` of preprocessed ``pixels``."""
    return nn.functional.normalize(model.encode_image(pixels).float(), dim=-1)


def encode_text(model: Clip, tokens: torch.Tensor) -> torch.Tensor:
    """(t, D) embeddings, not normalised, of int64 ``tokens`` (t, context).

    A text tower that looks back only reads no further than the longest text: the padding behind a caption changes
    nothing but the time, and captions fill about half of the context.
    """
    text = getattr(model, "text", None)
    if not (isinstance(text, TextTransformer) and text.pool_type == "argmax" and text.cls_emb is None):
        return model.encode_text(tokens)
    mask = text.attn_mask
    if mask is None:  # it looks both ways
        return model.encode_text(tokens)
    length = int(tokens.argmax(1).max()) + 1  # where a text ends; a "!" in it may have the number of padding
    text.attn_mask = mask[:length, :length]
    try:
        return model.encode_text(tokens[:, :length])
    finally:
        text.attn_mask = mask


@torch.inference_mode()
def embed_texts(teacher: Teacher, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
    """L2-normalised float32 (len(texts), D) embeddings of captions."""
    device = next(teacher.model.parameters()).device
    parts = []
    for start in range(0, len(texts), batch_size):
        tokens = teacher.tokenizer(list(texts[start : start + batch_size])).to(device)
        parts.append(nn.functional.normalize(encode_text(teacher.model, tokens).float(), dim=-1).cpu().numpy())
    return np.concatenate(parts)
