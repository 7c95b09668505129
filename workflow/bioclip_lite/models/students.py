"""Students, which are timm image models: build, save, load.

A model is a folder: a JSON description, plain safetensors and the preprocessing it was made for. A pruned student is
described by the layers whose shapes differ from the architecture's, so it loads as an ordinary model.
"""

import difflib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import get_act_layer, resample_abs_pos_embed
from timm.models.fastvit import ConvMlp
from timm.utils.model import reparameterize_model
from torch import nn

from bioclip_lite.models import costs
from bioclip_lite.models.prunable import PRUNABLE, reshape, shapes
from bioclip_lite.photographs.preprocess import FILE as PREPROCESS_FILE
from bioclip_lite.photographs.preprocess import read_preprocess
from bioclip_lite.utils.errors import UserError, first_line
from bioclip_lite.utils.files import read_json, replacing_folder, require, write_json

WEIGHTS_FILE = "model.safetensors"
SPEC_FILE = "student.json"
_HISTORY = "history.parquet"  # of the training, which the stage puts beside some models
# Image towers by the names of models that open_clip does not have: (timm model, arguments of timm.create_model)
_TOWERS = {"MobileCLIP-S0": ("fastvit_mci0", {"global_pool": "avg", "drop_path_rate": 0.0})}
_IN_CLIP = "visual.trunk."  # how the names of a timm image tower begin in the weights of an open_clip model


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

    ``outputs`` is the length of the embedding, or for a control with a classifier of the logits; ``image_size`` in
    pixels; ``trained_on`` the identity of the teacher whose embedding space is the student's; ``initial_weights`` the
    source of its initial weights (``hub.Weights.about``), None for random ones; ``teachers`` the names of those whose
    caches it learned from.
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


def parameters(spec: dict[str, Any]) -> tuple[int, int]:
    """Count the learned numbers of the student of ``spec``, and those that one output more would add to it."""
    own, more = (build_student({**spec, "outputs": spec["outputs"] + extra}) for extra in (0, 1))
    count = costs.parameters(own)
    return count, costs.parameters(more) - count


def build_student(spec: dict[str, Any]) -> nn.Module:
    """The architecture of ``spec`` with random weights, before pruning; draws from torch's random numbers.

    Maps float32 (batch, 3, image_size, image_size) to float32 (batch, outputs), an embedding that is not normalised.
    The name of an open_clip model with a timm image tower (MobileCLIP2-S0 ...), or MobileCLIP-S0, stands for that
    tower; its projection is a linear last layer. Models that are made for one size of images (ViT) are made for this
    one.
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
        module.__class__ = PRUNABLE.get(type(module), type(module))
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
    """Resolve the name of a student to (name of a timm model, further arguments of timm.create_model).

    Raises UserError with the nearest names of timm and open_clip if there is no such model.
    """
    if timm.is_model(name) and ("." not in name or name in _tagged(name)):
        return name, {}
    if name in _TOWERS:
        tower, arguments = _TOWERS[name]
        return tower, dict(arguments)
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
    names = {other.lower(): other for other in [*timm.list_models(), *clips, *_TOWERS]}
    return [names[other] for other in difflib.get_close_matches(name.lower(), names, n=5)]


def reparameterize(model: nn.Module) -> nn.Module:
    """A copy with training-time branches merged (FastViT, MobileOne, RepViT ...); same function, faster.

    Others are copied unchanged. Set ``spec["reparameterized"] = True`` when saving the result.
    """
    return reparameterize_model(model.eval(), inplace=False)


def save_student(
    folder: str | os.PathLike[str], model: nn.Module, spec: dict[str, Any], preprocess: dict[str, Any]
) -> dict[str, Any]:
    """Write ``student.json``, ``model.safetensors`` and ``preprocess.json``; returns the spec as written.

    ``spec["shapes"]`` is computed by comparing ``model`` with the architecture, so of a pruned model only
    ``spec["reparameterized"]`` must be stated. Equal models are equal bytes.
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
            f"{folder}: {WEIGHTS_FILE} does not fit {SPEC_FILE} ({first_line(error)}); both are written "
            f"together, so one was replaced: make the folder again"
        ) from error
    return model.eval(), spec, preprocess


def load_initial_weights(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Load initial weights from a safetensors file, in place; returns the names of the tensors that it lacks.

    The file holds a timm model, or an open_clip model with one as its image tower. A tensor of another size (usually
    the head, which was made for other classes) keeps its random values; position embeddings are resampled.
    Raises UserError if it is no safetensors file, or if it has less than half of the model's tensors.
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
