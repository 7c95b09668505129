"""Published CLIP models: found in a local folder, the Hugging Face cache, or downloaded; else one clear message."""

import json
import os
import pickle
import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from bioclip_lite.errors import UserError
from bioclip_lite.files import read_json

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_RESEARCH_ONLY = re.compile(r"amlr|research")
_SECONDS = 5.0  # to find out whether the hub can be reached


@dataclass(frozen=True)
class Published:
    """An open_clip model on this machine, not yet loaded."""

    name: str
    config: dict[str, Any]  # content of open_clip_config.json
    weights: Path  # .safetensors, or a foreign checkpoint
    licence: str | None
    revision: str | None = None  # the commit of the hub's repository


def find(model: str, weights: str | None, folder: Path, revision: str | None = None) -> Published:
    """Locate an open_clip model.

    Args:
        model: "hf-hub:organisation/name", "local-dir:folder", or a name of open_clip.list_models().
        weights: for a name: the tag of open_clip's pretrained weights, or a file in ``folder``; otherwise None.
        folder: data/weights; a relative local-dir is looked up there first.
        revision: branch, tag or commit of the hub's repository; None: its main branch, or what the cache has of it.

    Raises:
        UserError: not found, and within seconds if the hub does not answer.
    """
    if model.startswith("hf-hub:"):
        return _from_hub(model.removeprefix("hf-hub:"), revision)
    if model.startswith("local-dir:"):
        return _from_folder(Path(model.removeprefix("local-dir:")), folder)
    return _built_in(model, weights, folder, revision)


def research_only(licence: str | None) -> bool:
    """Whether a licence, as model cards state it, allows research and nothing else, as Apple's for MobileCLIP2 does."""
    return bool(licence and _RESEARCH_ONLY.search(licence.lower()))


def load(published: Published) -> Any:
    """The model with its weights, on the CPU. Foreign checkpoints are read as plain tensors, never as code."""
    text = published.config["model_cfg"]["text_cfg"]
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise UserError(
            f"teacher.pretrained.model: the text tower of {published.name} comes from the library transformers, which "
            f"is not supported; choose one with open_clip's own (BioCLIP, BioCLIP 2, BioTrove-CLIP, OpenAI ...)"
        )
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, CONFIG).write_text(json.dumps(published.config))
        Path(scratch, f"open_clip_pytorch_model{published.weights.suffix}").symlink_to(published.weights.resolve())
        try:
            return open_clip.create_model(f"local-dir:{scratch}", require_pretrained=True)
        except (RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise UserError(
                f"{published.weights}: open_clip cannot load it as {published.name}: {str(error).splitlines()[0]}; "
                f"is the file complete, and of this architecture?"
            ) from error


def _from_hub(repository: str, revision: str | None) -> Published:
    config = _fetch(repository, CONFIG, revision)
    if config is None:
        raise UserError(f"teacher.pretrained.model: {repository} has no {CONFIG}; it is not an open_clip model")
    for name in WEIGHTS:
        path = _fetch(repository, name, revision)
        if path is not None:
            card = _licence(_fetch(repository, "README.md", revision))
            return Published(f"hf-hub:{repository}", read_json(config), path, card, _commit(path))
    raise UserError(f"teacher.pretrained.model: {repository} has none of {', '.join(WEIGHTS)}")


def _from_folder(path: Path, folder: Path) -> Published:
    places = [place for place in (folder / path, path) if place.is_dir()]
    if not places:
        raise UserError(f"teacher.pretrained.model: no folder {folder / path} or {path}; put the model there")
    place = places[0]
    found = [place / name for name in WEIGHTS if (place / name).is_file()]
    if not (place / CONFIG).is_file() or not found:
        raise UserError(
            f"teacher.pretrained.model: {place} must hold {CONFIG} and one of {', '.join(WEIGHTS)} (open_clip's layout)"
        )
    card = place / "README.md"
    return Published(place.name, read_json(place / CONFIG), found[0], _licence(card if card.is_file() else None))


def _built_in(model: str, weights: str | None, folder: Path, revision: str | None) -> Published:
    model_cfg = open_clip.get_model_config(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if model_cfg is None:
        raise UserError(
            f"teacher.pretrained.model: open_clip has no model {model!r}; give a name of open_clip.list_models(), "
            f"hf-hub:organisation/name or local-dir:folder"
        )
    if weights is None:
        raise UserError(
            f"teacher.pretrained.weights: {model} is only an architecture; name a file in {folder} or one of "
            f"open_clip's tags for it: {', '.join(tags) or 'none'}"
        )
    file = folder / weights
    if file.is_file():
        return Published(f"{model} ({weights})", {"model_cfg": model_cfg, "preprocess_cfg": {}}, file, None)
    tag = open_clip.get_pretrained_cfg(model, weights)
    if not tag:
        raise UserError(
            f"teacher.pretrained.weights: no file {file}, and {weights!r} is no tag of {model}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    if tag.get("quick_gelu"):  # the weights decide; with another activation they give wrong numbers, silently
        model_cfg["quick_gelu"] = True
    config = {"model_cfg": model_cfg, "preprocess_cfg": {k: v for k, v in tag.items() if k not in ("url", "hf_hub")}}
    repository, _, name = tag["hf_hub"].rpartition("/")
    # A safe file of the same name is preferred to a pickled one.
    names = [Path(name).with_suffix(".safetensors").name, name] if name else list(WEIGHTS)
    for candidate in names:
        path = _fetch(repository, candidate, revision)
        if path is not None:
            card = _licence(_fetch(repository, "README.md", revision))
            return Published(f"{model} ({weights})", config, path, card, _commit(path))
    raise UserError(f"teacher.pretrained.weights: {repository} has none of {', '.join(names)}")


def _commit(path: Path) -> str:
    """Of a file in the hub's cache: models--<organisation>--<name>/snapshots/<commit>/<file>."""
    places = path.parts
    return places[places.index("snapshots") + 1]


def _fetch(repository: str, file: str, revision: str | None) -> Path | None:
    """A file of a hub repository, from the cache or downloaded; None if the repository does not have it.

    huggingface_hub retries for minutes when the hub is out of reach, and name resolution alone may block for long, so
    the hub is first asked whether the file exists, within seconds and outside the main thread.
    """
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    weights_here = file not in WEIGHTS or any(_cached(repository, name, revision) for name in WEIGHTS)
    if weights_here and _cached(repository, CONFIG, revision):
        return None  # the model is here; the hub is not asked for what else it may have
    if constants.HF_HUB_OFFLINE:
        raise _unreachable(repository, "HF_HUB_OFFLINE is set")
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), timeout=_SECONDS)
            answer.append(None)
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    problem = answer[0] if answer else TimeoutError(f"no answer in {_SECONDS:.0f} s")
    if isinstance(problem, EntryNotFoundError):
        return None
    if problem is not None:
        raise _unreachable(repository, f"{type(problem).__name__}: {str(problem).splitlines()[0]}") from problem
    return Path(hf_hub_download(repository, file, revision=revision))


def _cached(repository: str, file: str, revision: str | None) -> bool:
    try:
        hf_hub_download(repository, file, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _unreachable(repository: str, why: str) -> UserError:
    return UserError(
        f"teacher.pretrained.model: {repository} is neither in {constants.HF_HUB_CACHE} nor to be had from "
        f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)} ({why}); on a machine with access run "
        f"`hf download {repository}` and copy the cache folder here, or set teacher.kind to lit or train"
    )


def _licence(card: Path | None) -> str | None:
    """The licence that the YAML head of a model card states; its name where that only says "other"."""
    if card is None:
        return None
    head = card.read_text(errors="replace").split("---")
    lines = head[1].splitlines() if len(head) > 2 else []
    stated = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    licence = stated.get("license")
    return stated.get("license_name", licence) if licence == "other" else licence
