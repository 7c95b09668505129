"""The text tower of a LiT teacher as its tuning finds it: random, of the image tower's own model, or of another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bioclip_lite.models import hub, teachers
from bioclip_lite.teacher_cache.locked_tower import Tower, stated
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.utils.sections import TeacherLitTextTower

_PROJECTION = ("text_projection", "projection.")  # how the names of the last layer of text towers begin


class Untuned(NamedTuple):
    """A LiT teacher before its tuning."""

    model: teachers.Clip  # on the CPU, with the locked image tower
    config: dict[str, Any]  # open_clip_config.json
    tokenizer: Path | None  # folder of a tokenizer other than CLIP's
    title: str
    licence: str | None  # of both towers


def untuned(
    tower: Tower,
    start: "TeacherLitTextTower | str | None",
    plain: dict[str, Any],
    folder: Path,
    where: str,
    allow_research_only: bool,
) -> Untuned:
    """Join a locked image tower and the text tower that is to be tuned to it.

    A text tower of another model gets a new last projection with random weights, into the space of the image tower; the
    image tower's own one keeps its projection and the logit scale. Draws from torch's random numbers.

    Args:
        start: teacher.lit.text_tower.
        plain: the ``open_clip_config.json`` of a timm image tower and a small text transformer.
        folder: data/weights.
        where: the section's name in messages, e.g. "teacher.lit".
        allow_research_only: whether weights may be used whose licence allows nothing else.

    Raises:
        UserError: there is no such model, it cannot be read here, or its licence is not accepted.
    """
    text = _published_text(tower, start, folder, f"{where}.text_tower", allow_research_only)
    config = _config(plain, tower.published, text)
    model = teachers.build_clip(config)
    if tower.clip is None:
        model.visual.trunk = tower.model
    else:
        model.visual = tower.model
    if text is None:
        return Untuned(model, config, None, tower.title, tower.licence)
    if start == "own":
        model.text.load_state_dict(tower.clip.text.state_dict())
        model.logit_scale.data.copy_(tower.clip.logit_scale.detach().reshape(()))
        return Untuned(model, config, text.tokenizer, f"{tower.title}, its own text tower", tower.licence)
    _start_from(model.text, hub.load(text, f"{where}.text_tower").text)
    return Untuned(
        model, config, text.tokenizer, f"{tower.title}, text tower of {text.name}", _both(tower.licence, text.licence)
    )


def _published_text(
    tower: Tower, start: "TeacherLitTextTower | str | None", folder: Path, where: str, allow_research_only: bool
) -> hub.Published | None:
    if start is None:
        return None
    if isinstance(start, str):
        if tower.published is None:
            raise UserError(
                f"{where} is own, but the image tower {tower.title} is of timm, which has no text tower; name the "
                "open_clip model whose text tower to start from, or null"
            )
        return hub.with_tokenizer(tower.published, folder, tower.revision, where)
    model = stated(start)
    found = hub.find(model["model"], model["weights"], folder, model["revision"], where, model["preprocess"])
    if not allow_research_only:
        hub.refuse_research_only(found.name, found.licence, f"{where}.model")
    return hub.with_custom_text(found)


def _config(plain: dict[str, Any], image: hub.Published | None, text: hub.Published | None) -> dict[str, Any]:
    """``plain`` with the towers of published models instead of its own."""
    model_cfg, extra = {**plain["model_cfg"]}, {**plain["bioclip_lite"]}
    if image is not None:
        own = image.config["model_cfg"]
        model_cfg["vision_cfg"] = {**own["vision_cfg"], "timm_model_pretrained": False}
        model_cfg["quick_gelu"] = own.get("quick_gelu", False)
        extra = _beyond(image, "image_tower_options")
    reads_quickly = False
    if text is not None:
        model_cfg["text_cfg"] = text.config["model_cfg"]["text_cfg"]
        reads_quickly = text.config["model_cfg"].get("quick_gelu", False)
        extra |= _beyond(text, "text_mixer")
        reads_quickly = _beyond(text, "text_quick_gelu").get("text_quick_gelu", reads_quickly)
    if reads_quickly != model_cfg.get("quick_gelu", False):
        extra["text_quick_gelu"] = reads_quickly
    return {**plain, "model_cfg": model_cfg, "bioclip_lite": extra}


def _beyond(published: hub.Published, key: str) -> dict[str, Any]:
    """An entry that open_clip's configuration lacks (``teachers.build_clip``), if the model has it."""
    stated = published.config.get("bioclip_lite", {})
    return {key: stated[key]} if key in stated else {}


def _start_from(text: Any, other: Any) -> None:
    """Load the weights of another text tower of the same architecture, all but its projection."""
    own = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith(_PROJECTION)}
    missing = [
        name for name in text.load_state_dict(own, strict=False).missing_keys if not name.startswith(_PROJECTION)
    ]
    if missing:
        raise ValueError(f"text towers of one configuration differ in {missing}")


def _both(*licences: str | None) -> str | None:
    return " and ".join(dict.fromkeys(licence for licence in licences if licence)) or None
