"""Text embeddings of names in many sentences (CLIP, arXiv 2103.00020, section 3.1.4)."""

from collections.abc import Callable, Sequence

import numpy as np
from open_clip import OPENAI_IMAGENET_TEMPLATES

from bioclip_lite.models import teachers
from bioclip_lite.utils.progress import progress

OPENAI: tuple[Callable[[str], str], ...] = tuple(OPENAI_IMAGENET_TEMPLATES)


def body(prompt: str) -> str:
    """What a prompt of ``captions.caption`` says after "a photo of"."""
    return prompt[len("a photo of ") :].removesuffix(".")


def embed_in_templates(
    teacher: teachers.Teacher, names: Sequence[str], templates: Sequence[Callable[[str], str]] = OPENAI
) -> np.ndarray:
    """L2-normalised float32 (len(names), D): of each name the mean over the templates, normalised before and after."""
    total = np.zeros(())
    for template in progress(templates, len(templates), "taxa, templates"):
        total = total + teachers.embed_texts(teacher, [template(name) for name in names]).astype(np.float64)
    return (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
