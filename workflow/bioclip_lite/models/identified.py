"""Find a teacher again by the identity that its results state."""

import tempfile
from pathlib import Path

from bioclip_lite.models import hub, teachers
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json


def load(name: str, weights: str | None, folder: Path, identity: str) -> teachers.Teacher:
    """Load a teacher, and make sure that it is the one wanted.

    Args:
        name: a folder like data/teacher/model, or what teacher.pretrained.model takes.
        weights: with a name, what teacher.pretrained.weights takes.
        folder: data/weights.
        identity: of the teacher wanted, as teacher.json and bundle.json state it.

    Raises:
        UserError: it is missing, or another one.
    """
    if (Path(name) / teachers.TEACHER_FILE).is_file():
        _check(name, read_json(Path(name) / teachers.TEACHER_FILE)["identity"], identity)
        return teachers.load_teacher(name)
    if Path(name).is_dir():
        raise UserError(
            f"{name} is no teacher: it has no {teachers.TEACHER_FILE}; name a folder like data/teacher/model"
        )
    published = hub.find(name, weights, folder, what="--teacher")
    model = hub.load(published, "--teacher")
    with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
        saved, config = Path(scratch) / "model", published.config
        prepared = teachers.open_clip_preprocess(config, name)
        about = teachers.save_teacher(saved, model, config, prepared, "pretrained", published.name, published.licence)
        _check(name, about["identity"], identity)
        return teachers.load_teacher(saved)


def _check(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(
            f"{name} is teacher {found[:12]}, but the taxa of the bundle were embedded by {wanted[:12]}, and rows of "
            "two teachers cannot be compared; name the teacher that the bundle was made with (--teacher)"
        )
