"""open_clip's architectures: the one that a weights file is named after, and the preprocessing that goes with it."""

import re
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from bioclip_lite.utils.errors import UserError

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
_QUICK = "-quickgelu"
# Weights that open_clip trains on with QuickGELU, whatever architecture is named: OpenAI's, and MetaCLIP's by its tags.
_BEGAN_WITH_QUICK_GELU = re.compile(r"from[-_](openai|metaclip)")


def named_in(file: str) -> str | None:
    """The architecture that the name of a weights file contains, e.g. ViT-L-14-quickgelu; None if it contains none.

    "biotroveclip-vit-l-14-from-metaclip-epoch-12.pt" was trained from MetaCLIP's weights, which have QuickGELU.
    """
    stem = _plain(Path(file).stem)
    inside = [name for name in open_clip.list_models() if re.search(rf"(^|-){re.escape(_plain(name))}(-|$)", stem)]
    if not inside:
        return None
    longest = max(inside, key=lambda name: (len(name), name))
    quick = longest + _QUICK
    return quick if _BEGAN_WITH_QUICK_GELU.search(stem) and quick in open_clip.list_models() else longest


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def preprocess_of(model: str, what: str) -> dict[str, Any]:
    """The preprocessing that all published weights of an architecture share: mean, std, interpolation, resize_mode.

    Raises:
        UserError: there are none, or they differ; the message names ``<what>.preprocess``.
    """
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
