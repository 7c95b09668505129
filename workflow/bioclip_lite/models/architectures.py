"""The architectures of open_clip, and MobileCLIP-S0: by the name of a weights file, and with their preprocessing."""

import copy
import re
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from bioclip_lite.utils.errors import UserError

# What open_clip lacks. "bioclip_lite" is what its configuration cannot express, see ``teachers.build_clip``.
OWN: dict[str, dict[str, Any]] = {
    "MobileCLIP-S0": {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": {
                "timm_model_name": "fastvit_mci0",
                "timm_pool": "avg",
                "timm_proj": None,
                "timm_drop_path": 0.0,
                "image_size": 256,
            },
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 6},
            "custom_text": True,
        },
        "bioclip_lite": {"text_mixer": True},
    }
}
_PREPROCESS_OF_OWN = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "resize_mode": "shortest"}

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
_QUICK = "-quickgelu"
# Weights that open_clip trains on with QuickGELU, whatever architecture is named: OpenAI's, and MetaCLIP's by its tags.
_BEGAN_WITH_QUICK_GELU = re.compile(r"from[-_](openai|metaclip)")


def names() -> list[str]:
    return [*open_clip.list_models(), *OWN]


def config_of(name: str) -> dict[str, Any] | None:
    """The content of an ``open_clip_config.json`` without preprocessing; None if there is no such architecture."""
    if name in OWN:
        return copy.deepcopy(OWN[name])
    model_cfg = open_clip.get_model_config(name)
    return None if model_cfg is None else {"model_cfg": model_cfg}


def named_in(file: str) -> str | None:
    """The architecture that the name of a weights file contains, e.g. ViT-L-14-quickgelu; None if it contains none.

    "biotroveclip-vit-l-14-from-metaclip-epoch-12.pt" was trained from MetaCLIP's weights, which have QuickGELU.
    """
    stem = _plain(Path(file).stem)
    inside = [name for name in names() if re.search(rf"(^|-){re.escape(_plain(name))}(-|$)", stem)]
    if not inside:
        return None
    longest = max(inside, key=lambda name: (len(name), name))
    quick = longest + _QUICK
    return quick if _BEGAN_WITH_QUICK_GELU.search(stem) and quick in names() else longest


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def preprocess_of(model: str, what: str) -> dict[str, Any]:
    """The preprocessing that all published weights of an architecture share: mean, std, interpolation, resize_mode.

    Raises:
        UserError: there are none, or they differ; the message names ``<what>.preprocess``.
    """
    if model in OWN:
        return copy.deepcopy(_PREPROCESS_OF_OWN)
    by_tag = {tag: complete(open_clip.get_pretrained_cfg(model, tag)) for tag in _tags(model)}
    different: list[dict[str, Any]] = []
    for stated in by_tag.values():
        if stated not in different:
            different.append(stated)
    if len(different) == 1:
        return different[0]
    example = "{mean: [0.48, 0.46, 0.41], std: [0.27, 0.26, 0.28], interpolation: bicubic, resize_mode: shortest}"
    why = (
        "open_clip has no published weights of it" if not by_tag else f"its published weights differ: {_listed(by_tag)}"
    )
    raise UserError(
        f"{what}: the preprocessing that {model} was trained with is not known, {why}; "
        f"state it in {what}.preprocess, e.g. {example}"
    )


def _tags(model: str) -> list[str]:
    """Tags of an architecture, or of its twin with the other activation where it has none."""
    twin = model.removesuffix(_QUICK) if model.endswith(_QUICK) else model + _QUICK
    return open_clip.list_pretrained_tags_by_model(model) or open_clip.list_pretrained_tags_by_model(twin)


def complete(tag: dict[str, Any]) -> dict[str, Any]:
    """PREPROCESS as ``tag`` has it, and where it has nothing as OpenAI's models do."""
    whole = merge_preprocess_dict(PreprocessCfg(), {key: tag[key] for key in PREPROCESS if key in tag})
    return {key: list(whole[key]) if key in ("mean", "std") else whole[key] for key in PREPROCESS}


def _listed(by_tag: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{tag} mean {stated['mean'][0]:.3f}, {stated['resize_mode']}, {stated['interpolation']}"
        for tag, stated in list(by_tag.items())[:4]
    )
