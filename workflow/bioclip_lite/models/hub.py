"""Published CLIP models and weights: in a local folder, the Hugging Face cache, or downloaded; else one clear message.

``what``: the parameter name shown in error messages, e.g. `teacher.pretrained`.
"""

import difflib
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from bioclip_lite.models import architectures, checkpoints, mobileclip, teachers, tokenizers
from bioclip_lite.utils.errors import UserError, first_line
from bioclip_lite.utils.files import read_json

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_CARD = "README.md"
_TOWERS = ("model.safetensors", *WEIGHTS[:2])  # image towers: as timm publishes them, and within an open_clip model
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
    tokenizer: Path | None = None  # folder with tokenizer.json, where the text tower does not read CLIP's tokens


@dataclass(frozen=True)
class Weights:
    """The safetensors of an image tower on this machine."""

    path: Path
    origin: str  # the file in data/weights, or hf-hub:organisation/name
    licence: str | None = None
    revision: str | None = None  # the commit of the hub's repository
    mean: Sequence[float] | None = None  # of the pixels it was trained on, 0 to 1, per channel; None: not known
    std: Sequence[float] | None = None
    interpolation: str | None = None  # by which they were made as large as the input

    def about(self) -> dict[str, Any]:
        """What ``student.json`` says about them; the SHA-256 is that of the file."""
        with self.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"origin": self.origin, "licence": self.licence, "revision": self.revision, "sha256": sha256}


def find(
    model: str,
    weights: str | None,
    folder: Path,
    revision: str | None = None,
    what: str = "teacher.pretrained",
    preprocess: dict[str, Any] | None = None,
) -> Published:
    """Locate an open_clip model.

    Args:
        model: "hf-hub:organisation/name", "local-dir:folder", a name of open_clip.list_models(), or a file in
            ``folder`` whose name contains that of its architecture.
        weights: for a name: the tag of open_clip's pretrained weights, or a file in ``folder``; for "hf-hub:": a file
            in the repository, or None for its only one; otherwise None.
        folder: data/weights; a relative local-dir is looked up there first.
        revision: branch, tag or commit of the hub's repository; None: its main branch, or what the cache has of it.
        what: the section of the parameters ``model`` and ``weights``.
        preprocess: mean, std, interpolation and resize_mode, as far as they replace those that come with the weights.

    Raises:
        UserError: not found, and within seconds if the hub does not answer; or its preprocessing is not known.
    """
    return with_tokenizer(locate(model, weights, folder, revision, what, preprocess), folder, revision, what)


def locate(
    model: str,
    weights: str | None,
    folder: Path,
    revision: str | None = None,
    what: str = "teacher.pretrained",
    preprocess: dict[str, Any] | None = None,
) -> Published:
    """Locate an open_clip model whose image tower alone is wanted: as ``find``, but it needs no tokenizer."""
    if model.startswith("hf-hub:"):
        found = _from_hub(model.removeprefix("hf-hub:"), weights, revision, what)
    elif model.startswith("local-dir:"):
        found = _from_folder(Path(model.removeprefix("local-dir:")), folder, what)
    elif weights is None and (folder / model).is_file():
        found = _from_file(_architecture(model, f"{what}.model"), model, folder, preprocess, what)
    else:
        found = _built_in(model, weights, folder, revision, preprocess, what)
    stated = {**found.config.get("preprocess_cfg", {}), **(preprocess or {})}
    _refuse_transformers(found, what)
    return replace(found, config={**found.config, "preprocess_cfg": stated})


def with_tokenizer(found: Published, folder: Path, revision: str | None, what: str) -> Published:
    """What ``locate`` found, with the folder of its tokenizer; the arguments and errors are those of ``find``."""
    return replace(found, tokenizer=_tokenizer_folder(found, folder, revision, what))


def with_custom_text(found: Published) -> Published:
    """The same model, to be loaded with a text tower that is a module of its own (open_clip's CustomTextCLIP)."""
    model_cfg = {**found.config["model_cfg"], "custom_text": True}
    return replace(found, config={**found.config, "model_cfg": model_cfg})


def find_weights(
    weights: str, student: str, folder: Path, allow_research_only: bool, what: str = "distill.weights"
) -> Weights:
    """Locate the weights of a timm model: a student's initial ones, or those of an image tower.

    Args:
        weights: a file in ``folder``; "hf-hub:organisation/name", with "@revision" for a branch, tag or commit; or
            "pretrained" for those that the name stands for in timm (fastvit_t8.apple_in1k) or open_clip.
        student: a name as distill.student.
        folder: data/weights.
        allow_research_only: whether weights may be used whose licence allows nothing else. Of a file in ``folder`` no
            licence is known.
        what: the parameter ``weights``.

    Raises:
        UserError: not found, within seconds if the hub does not answer; or not allowed.
    """
    if weights != "pretrained" and not weights.startswith("hf-hub:"):
        if not (folder / weights).is_file():
            raise UserError(f"{what}: {folder / weights} does not exist; copy the file there, or name other weights")
        return Weights(folder / weights, weights)
    place = weights.removeprefix("hf-hub:") if weights != "pretrained" else _repository_of(student, what)
    repository, _, wanted = place.partition("@")
    revision = wanted or None
    path, licence = _first(repository, _TOWERS, revision, what)
    if path is None:
        raise UserError(
            f"{what}: {repository} has none of {', '.join(_TOWERS)}; other formats are not read, as they may hold code"
        )
    known = _published_settings(repository)
    if licence in (None, "other"):
        licence = known.get("license") or licence
    if not allow_research_only:
        if licence is None:  # a cache that another program filled has no model card
            licence = _licence(_fetch(repository, _CARD, revision, what))
        refuse_research_only(f"hf-hub:{repository}", licence, what)
    seen = (known.get(name) for name in ("mean", "std", "interpolation"))
    return Weights(path, f"hf-hub:{repository}", licence, _commit(path), *seen)


def research_only(licence: str | None) -> bool:
    """Whether a licence, as model cards state it, allows research and nothing else, as Apple's for MobileCLIP2 does."""
    return bool(licence and _RESEARCH_ONLY.search(licence.lower()))


def refuse_research_only(name: str, licence: str | None, what: str) -> None:
    """Raise UserError if weights, ``name`` in the message, are for research only; ``what`` is of a stage's section."""
    if research_only(licence):
        raise UserError(
            f"{what}: the licence of {name}, {licence}, allows research only, and what is distilled from it inherits "
            f"that; set {what.split('.')[0]}.allow_research_only to true if it suits you"
        )


def load(published: Published, what: str = "teacher.pretrained") -> Any:
    """The model with its weights, on the CPU. Foreign checkpoints are read as plain tensors, never as code.

    Raises:
        UserError: the weights cannot be read, or are of another architecture.
    """
    state = checkpoints.read_state(published.weights)
    if "bioclip_lite" in published.config:
        model = teachers.build_clip(published.config)
        with checkpoints.naming(published.weights, published.name):
            model.load_state_dict(mobileclip.converted(state, model))
        return model
    with tempfile.TemporaryDirectory() as scratch, checkpoints.naming(published.weights, published.name):
        Path(scratch, CONFIG).write_text(json.dumps(published.config), encoding="utf-8")
        torch.save(state, Path(scratch, "open_clip_pytorch_model.bin"))
        return open_clip.create_model(f"local-dir:{scratch}", require_pretrained=True)


def _from_hub(repository: str, weights: str | None, revision: str | None, what: str) -> Published:
    stated = _fetch(repository, CONFIG, revision, f"{what}.model")
    config = _read_config(stated, f"{what}.model") if stated else None
    if weights and (architecture := architectures.named_in(weights)):
        print(f"{repository}: {weights} is of the architecture {architecture} by its name")
        preprocess = config["preprocess_cfg"] if config else architectures.preprocess_of(architecture, what)
        config = {**_config_of(architecture), "preprocess_cfg": preprocess}
    if config is None:
        raise UserError(f"{what}.model: {repository} has no {CONFIG}; it is not an open_clip model")
    names = [weights] if weights else WEIGHTS
    path, licence = _first(repository, names, revision, f"{what}.model")
    if path is None:
        raise UserError(f"{what}.{'weights' if weights else 'model'}: {repository} has none of {', '.join(names)}")
    name = f"hf-hub:{repository}" + (f" ({weights})" if weights else "")
    return Published(name, config, path, licence, _commit(path))


def _from_folder(path: Path, folder: Path, what: str) -> Published:
    places = [place for place in (folder / path, path) if place.is_dir()]
    if not places:
        raise UserError(f"{what}.model: no folder {folder / path} or {path}; put the model there")
    place = places[0]
    found = [place / name for name in WEIGHTS if (place / name).is_file()]
    if not (place / CONFIG).is_file() or not found:
        raise UserError(
            f"{what}.model: {place} must hold {CONFIG} and one of {', '.join(WEIGHTS)} (open_clip's layout)"
        )
    card = place / _CARD
    config = _read_config(place / CONFIG, f"{what}.model")
    return Published(
        place.name, config, found[0], _licence(card if card.is_file() else None), tokenizer=_holds_tokenizer(place)
    )


def _from_file(model: str, weights: str, folder: Path, preprocess: dict[str, Any] | None, what: str) -> Published:
    """Weights in data/weights; where nothing is asked for, preprocessed as the architecture's published weights are."""
    whole = preprocess is not None and set(preprocess) == set(architectures.PREPROCESS)
    stated = {} if whole else architectures.preprocess_of(model, what)
    config = {**_config_of(model), "preprocess_cfg": stated}
    return Published(f"{model} ({weights})", config, folder / weights, None)


def _config_of(architecture: str) -> dict[str, Any]:
    """The configuration of an architecture that exists."""
    return architectures.config_of(architecture) or {}


def _architecture(file: str, what: str) -> str:
    """The architecture that a weights file is named after; UserError if its name contains none."""
    architecture = architectures.named_in(file)
    if architecture is None:
        raise UserError(
            f"{what}: the name of {file} contains no architecture of open_clip (open_clip.list_models()); "
            f"give the architecture as {what} and the file as {what.rpartition('.')[0]}.weights"
        )
    print(f"{file} is of the architecture {architecture} by its name")
    return architecture


def _read_config(path: Path, what: str) -> dict[str, Any]:
    """An ``open_clip_config.json``, with entry ``preprocess_cfg`` in any case."""
    try:
        config = read_json(path)
    except ValueError as error:
        raise UserError(f"{what}: {path} is no JSON ({str(error)[:100]}); fetch it again") from error
    if not isinstance(config, dict) or not {"vision_cfg", "text_cfg"} <= set(config.get("model_cfg") or {}):
        raise UserError(f"{what}: {path} has no model_cfg with vision_cfg and text_cfg; it is not open_clip's")
    return {"preprocess_cfg": {}, **config}


def _holds_tokenizer(place: Path) -> Path | None:
    return place if (place / tokenizers.SOURCE).is_file() else None


def _refuse_transformers(found: Published, what: str) -> None:
    name = found.config["model_cfg"]["text_cfg"].get("hf_model_name")
    if name:
        raise UserError(
            f"{what}.model: the text tower of {found.name}, {name}, comes from the library transformers, which is not "
            f"supported; choose a model with open_clip's own text tower (BioCLIP, BioCLIP 2, BioTrove-CLIP, SigLIP ...)"
        )


def _tokenizer_folder(found: Published, folder: Path, revision: str | None, what: str) -> Path | None:
    """The folder with the ``tokenizer.json`` that a text tower needs; None if it reads CLIP's tokens.

    It is looked for beside a local model, in data/weights under the tokenizer's name, beside weights of the hub, and in
    the hub's repository that the configuration names.
    """
    name = found.config["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    if not name or found.tokenizer:
        return found.tokenizer if name else None
    local = [folder / name, folder / name.replace("/", "--"), folder / name.rpartition("/")[2]]
    for place in local:
        if _holds_tokenizer(place):
            return place
    if found.revision and (beside := _holds_tokenizer(found.weights.parent)):
        return beside
    path = _fetch(name, tokenizers.SOURCE, None, f"{what}.model")
    if path is None:
        raise UserError(f"{what}.model: {name} has no {tokenizers.SOURCE}; put one into {local[1]}")
    for settings in tokenizers.SETTINGS:
        _fetch(name, settings, None, f"{what}.model")
    return path.parent


def _built_in(
    model: str,
    weights: str | None,
    folder: Path,
    revision: str | None,
    preprocess: dict[str, Any] | None,
    what: str,
) -> Published:
    config = architectures.config_of(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if config is None:
        raise UserError(
            f"{what}.model: open_clip has no model {model!r}, and there is no file {folder / model}; give a name of "
            f"open_clip.list_models(), a file in {folder}, hf-hub:organisation/name or local-dir:folder"
        )
    if weights is None:
        raise UserError(
            f"{what}.weights: {model} is only an architecture; name a file in {folder} or one of "
            f"open_clip's tags for it: {', '.join(tags) or 'none'}"
        )
    file = folder / weights
    if file.is_file():
        return _from_file(model, weights, folder, preprocess, what)
    tag = open_clip.get_pretrained_cfg(model, weights)
    if not tag:
        raise UserError(
            f"{what}.weights: no file {file}, and {weights!r} is no tag of {model}; tags: {', '.join(tags) or 'none'}"
        )
    if tag.get("quick_gelu"):  # the weights decide; with another activation they give wrong numbers, silently
        config["model_cfg"]["quick_gelu"] = True
    config["preprocess_cfg"] = {key: value for key, value in tag.items() if key not in ("url", "hf_hub")}
    repository, _, name = tag["hf_hub"].rpartition("/")
    # A safe file of the same name is preferred to a pickled one.
    names = [Path(name).with_suffix(".safetensors").name, name] if name else list(WEIGHTS)
    path, licence = _first(repository, names, revision, f"{what}.model")
    if path is None:
        raise UserError(f"{what}.weights: {repository} has none of {', '.join(names)}")
    if licence is None and not _cached(repository, CONFIG, revision):  # open_clip fills the cache with weights alone
        licence = _licence(_fetch(repository, _CARD, revision, f"{what}.model"))
    return Published(f"{model} ({weights})", config, path, licence, _commit(path))


def _commit(path: Path) -> str:
    """Of a file in the hub's cache: models--<organisation>--<name>/snapshots/<commit>/<file>."""
    places = path.parts
    return places[places.index("snapshots") + 1]


def _first(repository: str, names: Sequence[str], revision: str | None, what: str) -> tuple[Path | None, str | None]:
    """(the first file of ``names`` that a hub repository has, the licence on its model card); None for what it lacks.

    If one of them is in the cache, the hub is not asked what else there may be.
    """
    here = [name for name in names if _cached(repository, name, revision)]
    for name in here or names:
        path = _fetch(repository, name, revision, what)
        if path is not None:
            ask = not here or _cached(repository, _CARD, revision)
            return path, _licence(_fetch(repository, _CARD, revision, what)) if ask else None
    return None, None


def _fetch(repository: str, file: str, revision: str | None, what: str) -> Path | None:
    """A file of a hub repository, from the cache or downloaded; None if the repository does not have it.

    huggingface_hub retries for minutes when the hub is out of reach, and name resolution alone may block for long, so
    the hub is first asked whether the file exists, within seconds and outside the main thread.
    """
    try:
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise _unreachable(what, repository, file, revision, "HF_HUB_OFFLINE is set")
    problem = _problem(repository, file, revision)
    if isinstance(problem, EntryNotFoundError):
        return None
    if problem is not None:
        why = f"{type(problem).__name__}: {first_line(problem)}"
        raise _unreachable(what, repository, file, revision, why) from problem
    return Path(hf_hub_download(repository, file, revision=revision))


def _problem(repository: str, file: str, revision: str | None) -> Exception | None:
    """Why a file cannot be had from the hub, found out within seconds; None if it can."""
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
    return answer[0] if answer else TimeoutError(f"no answer in {_SECONDS:.0f} s")


def whereabouts(repository: str) -> Literal["cache", "hub"] | None:
    """Where the weights of a repository of the hub can be had: on this machine, from the hub, or nowhere (None)."""
    if any(_cached(repository, name, None) for name in (*_TOWERS, *WEIGHTS)):
        return "cache"
    reachable = not constants.HF_HUB_OFFLINE and _problem(repository, _CARD, None) is None
    return "hub" if reachable else None


def _cached(repository: str, file: str, revision: str | None) -> bool:
    try:
        hf_hub_download(repository, file, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _unreachable(what: str, repository: str, file: str, revision: str | None, why: str) -> UserError:
    command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    return UserError(
        f"{what}: {repository} ({file}) is neither in {constants.HF_HUB_CACHE} nor to be had from "
        f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)} ({why}); on a computer with access run "
        f"`{command}` and copy the cache folder here, or do without it"
    )


def _repository_of(student: str, what: str) -> str:
    """The hub's repository with the weights that a student's name stands for."""
    if timm.is_model(student):
        published = timm.get_pretrained_cfg(student)
        if published is not None and published.hf_hub_id:
            return str(published.hf_hub_id)
        named = timm.list_pretrained(f"{student.split('.')[0]}.*")
        raise UserError(
            f"{what}: timm has no published weights of {student}; students with some: "
            f"{', '.join(named or difflib.get_close_matches(student, timm.list_pretrained(), n=5))}"
        )
    for tag in open_clip.list_pretrained_tags_by_model(student):
        place = open_clip.get_pretrained_cfg(student, tag).get("hf_hub")
        if place:
            return _repository(place)
    raise UserError(f"{what}: neither timm nor open_clip has published weights of {student}; name a file")


def _published_settings(repository: str) -> dict[str, Any]:
    """License, mean and std that timm or open_clip gives for a repository of the hub; {} if neither has it."""
    for name in timm.list_pretrained():
        published = timm.get_pretrained_cfg(name)
        if published is not None and published.hf_hub_id == repository:
            return published.to_dict()
    for model, tag in open_clip.list_pretrained():
        settings = open_clip.get_pretrained_cfg(model, tag)
        if _repository(settings.get("hf_hub", "")) == repository:
            return settings
    return {}


def _repository(place: str) -> str:
    """organisation/name from open_clip's organisation/name/ or organisation/name/file."""
    return "/".join(place.split("/")[:2])


def _licence(card: Path | None) -> str | None:
    """The licence that the YAML head of a model card states; its name where that only says "other"."""
    if card is None:
        return None
    head = card.read_text(encoding="utf-8", errors="replace").split("---")
    lines = head[1].splitlines() if len(head) > 2 else []
    stated = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    licence = stated.get("license")
    return stated.get("license_name", licence) if licence == "other" else licence
