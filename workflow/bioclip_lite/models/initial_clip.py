"""The CLIP model that a training by open_clip_train begins with: published weights, or an architecture alone."""

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import open_clip
from safetensors.torch import save_file

from bioclip_lite.models import architectures, checkpoints, hub, teachers
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json

if TYPE_CHECKING:
    from bioclip_lite.params import jobs


class InitialClip(NamedTuple):
    """A CLIP model on this machine, not yet loaded."""

    name: str
    config: dict[str, Any]  # content of open_clip_config.json
    published: hub.Published | None  # None: random weights

    def about(self) -> dict[str, Any]:
        """Describe the weights, as JSON: name, licence, revision, and the SHA-256 of their file; null where unknown."""
        described: dict[str, Any] = {"name": self.name, "licence": None, "revision": None, "sha256": None}
        if self.published:
            with self.published.weights.open("rb") as file:
                described["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            described |= {"licence": self.published.licence, "revision": self.published.revision}
        return described


def find(chosen: "jobs.InitialWeights", folder: Path, where: str) -> InitialClip:
    """Locate the model that ``chosen`` names.

    Args:
        chosen: ``pretrained`` alone names weights that say their architecture; with ``model`` a pretrained tag, or a
            file in ``folder``; ``model`` alone takes random weights.
        folder: data/weights.
        where: the section, for messages.

    Raises:
        UserError: not found, and within seconds if the hub does not answer; or of a kind that open_clip_train cannot
            train here.
    """
    model, pretrained = chosen["model"], chosen["pretrained"]
    if pretrained is None or (model or "").endswith(".json"):
        found = _from_architecture(model or "", pretrained, chosen["preprocess"], folder, where)
    else:
        published = _published(chosen, folder, where)
        found = InitialClip(published.name, published.config, published)
    _check_trainable(found, where)
    return found


def load(initial: InitialClip, seed: int, where: str) -> teachers.Clip:
    """The model on the CPU; random weights are drawn from ``seed``."""
    machine.deterministic(seed, "teacher", "weights")
    if initial.published:
        return hub.load(initial.published, where)
    with tempfile.TemporaryDirectory() as scratch, checkpoints.naming(Path(initial.name), initial.name):
        Path(scratch, hub.CONFIG).write_text(json.dumps(initial.config), encoding="utf-8")
        return open_clip.create_model(f"local-dir:{scratch}")


def write(folder: Path, model: teachers.Clip, config: dict[str, Any]) -> None:
    """Write a model in open_clip's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / hub.WEIGHTS[0])
    (folder / hub.CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _published(chosen: "jobs.InitialWeights", folder: Path, where: str) -> hub.Published:
    model, pretrained = chosen["model"], chosen["pretrained"]
    names = (model, pretrained) if model else (str(pretrained), None)
    try:
        return hub.find(*names, folder, chosen["revision"], where, chosen["preprocess"])
    except UserError as error:  # which names the parameters of teacher.pretrained
        wrong = "weights" if model else "(?:model|weights)"
        raise UserError(re.sub(rf"{re.escape(where)}\.{wrong}\b", f"{where}.pretrained", str(error))) from error


def _from_architecture(
    model: str, pretrained: str | None, preprocess: dict[str, Any] | None, folder: Path, where: str
) -> InitialClip:
    stated = _description(folder / model, where) if model.endswith(".json") else _built_in(model, where)
    stated["preprocess_cfg"] = architectures.complete({**stated.get("preprocess_cfg", {}), **(preprocess or {})})
    if pretrained is None:
        return InitialClip(f"{model}, random weights", stated, None)
    if not (folder / pretrained).is_file():
        raise UserError(f"{where}.pretrained is {pretrained}, but {folder / pretrained} does not exist; put it there")
    published = hub.Published(f"{model} ({pretrained})", stated, folder / pretrained, None)
    return InitialClip(published.name, stated, published)


def _built_in(model: str, where: str) -> dict[str, Any]:
    config = open_clip.get_model_config(model)
    if config is None:
        raise UserError(
            f"{where}.model: open_clip has no architecture {model!r}; give a name of open_clip.list_models(), or a "
            "file of open_clip's JSON form in data/weights"
        )
    return {"model_cfg": config}


def _description(path: Path, where: str) -> dict[str, Any]:
    """The JSON of an architecture: an ``open_clip_config.json``, or its part model_cfg alone."""
    try:
        content = read_json(path)
        stated = content if "model_cfg" in content else {"model_cfg": content}
        if {"embed_dim", "vision_cfg", "text_cfg"} <= set(stated["model_cfg"]):
            return {name: stated[name] for name in ("model_cfg", "preprocess_cfg") if name in stated}
        why = "it has no embed_dim, vision_cfg and text_cfg"
    except FileNotFoundError:
        why = "there is no such file"
    except (ValueError, TypeError) as error:
        why = f"it is no JSON object ({str(error)[:100]})"
    raise UserError(f"{where}.model: {path}: {why}; put an architecture of open_clip's JSON form there")


def _check_trainable(found: InitialClip, where: str) -> None:
    model_cfg = found.config["model_cfg"]
    if "multimodal_cfg" in model_cfg:
        raise UserError(f"{where}: {found.name} is a CoCa, which writes captions; bioclip-lite captioner trains those")
    if model_cfg["text_cfg"].get("hf_tokenizer_name") or model_cfg["text_cfg"].get("hf_model_name"):
        raise UserError(
            f"{where}: the text tower of {found.name} has a tokenizer of its own, for which open_clip_train needs the "
            "library transformers; choose a model with CLIP's tokenizer (ViT-B-16, BioCLIP, MetaCLIP ...)"
        )
    if "init_logit_bias" in model_cfg:
        raise UserError(
            f"{where}: {found.name} was trained with a sigmoid loss, and kind open_clip trains with CLIP's contrastive "
            "one; choose another model"
        )
