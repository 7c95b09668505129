"""Text embeddings of names in many sentences (CLIP, arXiv 2103.00020, section 3.1.4)."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from open_clip import OPENAI_IMAGENET_TEMPLATES

from bioclip_lite.models import teachers
from bioclip_lite.utils.progress import progress

OPENAI: tuple[Callable[[str], str], ...] = tuple(OPENAI_IMAGENET_TEMPLATES)
_NAMES = 256  # in all templates at once, so that no matrix of all taxa is kept for sums
_IN_OPENAI = f" in {len(OPENAI)} templates"


def body(prompt: str) -> str:
    """What a prompt of ``captions.caption`` says after "a photo of"."""
    return prompt[len("a photo of ") :].removesuffix(".")


def embed_in_templates(
    teacher: teachers.Teacher, names: Sequence[str], templates: Sequence[Callable[[str], str]] = OPENAI
) -> np.ndarray:
    """L2-normalised float32 (len(names), D): of each name the mean over the templates, normalised before and after."""
    starts = range(0, len(names), _NAMES)
    blocks = progress(starts, len(starts), f"taxa, blocks of {_NAMES} in {len(templates)} templates")
    return np.concatenate([_mean(teacher, names[start : start + _NAMES], templates) for start in blocks])


def _mean(teacher: teachers.Teacher, names: Sequence[str], templates: Sequence[Callable[[str], str]]) -> np.ndarray:
    total = np.zeros(())
    for template in templates:
        total = total + teachers.embed_texts(teacher, [template(name) for name in names]).astype(np.float64)
    return (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)


def embed_prompts(teacher: teachers.Teacher, prompts: Sequence[str], openai: bool) -> np.ndarray:
    """L2-normalised float32 (len(prompts), D): of prompts of ``captions.caption`` as they are, or of what they name in
    OpenAI's templates."""
    return embed_in_templates(teacher, [*map(body, prompts)]) if openai else teachers.embed_texts(teacher, prompts)


def described(text_type: str, openai: bool) -> str:
    """What a matrix of taxa says of its prompts: "taxon_com", "sci in 80 templates"."""
    return text_type + (_IN_OPENAI if openai else "")


def parse_described(prompt: str) -> tuple[str, bool]:
    """The arguments of ``described``, from its result.

    Raises:
        ValueError: other templates than OPENAI were used.
    """
    text_type, openai = prompt.removesuffix(_IN_OPENAI), prompt.endswith(_IN_OPENAI)
    if not re.fullmatch(r"\w+", text_type):
        raise ValueError(f"prompt {prompt!r}")
    return text_type, openai
