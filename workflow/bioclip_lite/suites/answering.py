"""One suite: its names through the teacher's text tower, its photographs through every model that ships or leads there.

Memory and disk do not grow with the number of photographs: some thousand at a time are copied to a tar, which PyTorch
and Node read alike. Node gets plain JPEG files as they are; of others, the pixels that were decoded.
"""

import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from bioclip_lite.evaluation import variants
from bioclip_lite.evaluation.web_variants import check_weights
from bioclip_lite.models import prompt_ensemble, teachers
from bioclip_lite.photographs.images import BadImage, decode, is_plain_jpeg
from bioclip_lite.photographs.preprocess import preprocess
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.report.text import percent
from bioclip_lite.sources.sample import Reject, key_of
from bioclip_lite.suites import scoring
from bioclip_lite.suites.formats import find_format
from bioclip_lite.suites.suite import HEADLINES, Class, Photograph, Suite
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import captions, text_types
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, require, write_json
from bioclip_lite.utils.progress import progress
from bioclip_lite.web import javascript
from bioclip_lite.web.bundle import FILE as BUNDLE_FILE

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import OneSuite
    from bioclip_lite.utils.sections import EvaluateSuites

STUDENTS = ("student", "pruned", "int8")  # in PyTorch; the teacher is before them, the web model behind

_AT_ONCE = 2048  # photographs in a tar
_BATCH = 64
_BUDGET = 0.05  # share of photographs that may be of no use: a published set is complete, or its figures are others
_EXAMPLES = 5


def run(params: "OneSuite", data: Path, name: str) -> None:
    """Write data/evaluate/predictions/suites/<name>.json: the figures of every variant, and the protocol."""
    entry = next((entry for entry in params["suites"] if entry["name"] == name), None)
    if entry is None:
        listed = ", ".join(entry["name"] for entry in params["suites"]) or "none"
        raise UserError(f"evaluate.suites in params.yaml has no {name!r}; it lists {listed}")
    root = Path(entry["path"])
    if not root.is_dir():
        raise UserError(f"evaluate.suites: {name} is in {root}, but there is no such folder; put it there, or link it")
    suite = find_format(entry["format"])(root)
    _check(root, suite.photographs, suite.rejects)
    names, templates = _said(suite, entry, data)
    rejects = list(suite.rejects)
    photographs, observed = _observe(suite, names, templates, data, rejects)
    _check(root, photographs, rejects)
    rows = scoring.summarise(suite, photographs, observed, params["bootstrap"], params["seed"])
    sentences = [template(one) for one in names for template in templates]
    protocol = scoring.protocol(entry["format"], suite, photographs, sentences)
    for row in rows.values():
        for number in row.values():
            number["protocol"] = protocol
    headline = HEADLINES[suite.question]
    write_json(
        data / "evaluate" / "predictions" / "suites" / f"{name}.json",
        {
            **{key: entry[key] for key in ("format", "prompt", "templates")},
            "protocol": protocol,
            "headline": headline,
            "rules": suite.rules,
            "example": sentences[0],
            "n_templates": len(templates),
            "cluster": suite.cluster,
            "n_images": len(photographs),
            "left_out": suite.left_out,
            "rejected": {"count": len(rejects), "examples": [_shown(reject) for reject in rejects[:_EXAMPLES]]},
            "variants": rows,
        },
    )
    for variant, row in rows.items():
        figure = percent(row[headline]["value"])
        print(f"evaluate: suite {name}: {variant}: {headline} {figure} % (n = {len(photographs)})")


def _said(suite: Suite, entry: "EvaluateSuites", data: Path) -> tuple[list[str], list[Callable[[str], str]]]:
    """The name of each class, and the templates that turn names into sentences."""
    columns = captions.lit_columns(data) if entry["prompt"] == "lit" else text_types.LIT_COLUMNS
    sentences = [_sentence(one, entry["prompt"], columns) for one in suite.classes]
    if entry["templates"] == "plain":
        return sentences, [str]
    names = [prompt_ensemble.body(sentence) for sentence in sentences]
    if entry["templates"] == "openai":
        return names, list(prompt_ensemble.OPENAI)
    if not suite.templates:
        raise UserError(
            f"evaluate.suites: {entry['name']} asks for templates of its own, but {entry['path']} has no "
            "zeroshot_classification_templates.txt (lines with {c} for the name); set templates to plain or openai"
        )
    return names, [functools.partial(_filled, line) for line in suite.templates]


def _filled(template: str, name: str) -> str:
    return template.replace("{c}", name)


def _sentence(one: Class, prompt: str, columns: Sequence[str]) -> str:
    if prompt == "lemmas":
        if one.lemmas is None:
            raise UserError("evaluate.suites: prompt lemmas is for the classes of ImageNet only; set it to name")
        return f"a photo of {one.lemmas}."
    if prompt == "name" or one.path is None:
        return f"a photo of {one.name}."
    return text_types.caption(one.path, one.common_name, prompt, columns)


def _observe(
    suite: Suite,
    names: Sequence[str],
    templates: Sequence[Callable[[str], str]],
    data: Path,
    rejects: list[Reject],
) -> tuple[list[Photograph], dict[str, np.ndarray]]:
    """The photographs that can be read, and ``scoring.observe`` of each variant; others are added to ``rejects``."""
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    bundle = data / "convert" / "tfjs"
    check_weights(data, bundle, read_json(require(bundle / BUNDLE_FILE)))
    students = {variant: variants.embedder(data, variant, taxa) for variant in STUDENTS}
    teacher = variants.teacher_of(data, taxa)
    device = machine.device()  # of the teacher, which is large; students run where they are measured otherwise
    teacher.model.to(device)

    def embed_by_teacher(pixels: torch.Tensor) -> np.ndarray:
        return teachers.embed_images(teacher.model, pixels.to(device)).cpu().numpy()

    embedders = {"teacher": (teacher.preprocess, embed_by_teacher), **students}
    text = prompt_ensemble.embed_in_templates(teacher, names, templates)

    def observe(variant: str, embeddings: np.ndarray, photographs: Sequence[Photograph]) -> np.ndarray:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        logits = np.float32(teacher.logit_scale) * (unit @ text.T)
        if not np.isfinite(logits).all():  # nothing is greater than NaN: every answer would be right
            bad = photographs[int(np.argmin(np.isfinite(logits).all(axis=1)))].locator
            raise UserError(f"the answer of {variant} to {bad} is no finite number: the model is broken")
        return scoring.observe(suite.question, logits, photographs)

    kept: list[Photograph] = []
    found: dict[str, list[np.ndarray]] = {variant: [] for variant in (*embedders, "tfjs")}
    starts = range(0, len(suite.photographs), _AT_ONCE)
    for start in progress(starts, len(starts), f"evaluate: {_AT_ONCE} photographs each"):
        with tempfile.TemporaryDirectory(prefix="bioclip-lite-") as scratch:
            tar = Path(scratch) / "photographs.tar"
            readable: list[Photograph] = []
            write_shard(tar, _files(suite, suite.photographs[start : start + _AT_ONCE], readable, rejects))
            if not readable:
                continue
            images = ShardSet.of(tar)
            in_node = _in_node(bundle, tar, images.keys)
            for first in range(0, len(readable), _BATCH):
                some = readable[first : first + _BATCH]
                pictures = [images.image(first + row) for row in range(len(some))]
                for variant, (prepared, embed) in embedders.items():
                    pixels = torch.from_numpy(np.stack([preprocess(picture, prepared) for picture in pictures]))
                    found[variant].append(observe(variant, embed(pixels), some))
                found["tfjs"].append(observe("tfjs", in_node[first : first + _BATCH], some))
            kept += readable
    return kept, {variant: np.concatenate([*parts, np.empty(0)]) for variant, parts in found.items()}


def _in_node(bundle: Path, tar: Path, keys: list[str]) -> np.ndarray:
    """The embeddings of the web model, float32 (n, D)."""
    prefix = tar.with_suffix("")
    answers = javascript.answer("node", bundle, [tar], prefix)
    if answers["keys"] != keys:
        raise UserError(f"the web model answered {answers['rows']} photographs other than the {len(keys)} it was given")
    return np.fromfile(f"{prefix}.embeddings.f32", "<f4").reshape(len(keys), -1)


def _files(
    suite: Suite, photographs: Sequence[Photograph], readable: list[Photograph], rejects: list[Reject]
) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """The photographs as samples of a shard, as they are added to ``readable``, or to ``rejects``."""
    for photograph in photographs:
        try:
            content = suite.read(photograph.locator)
            image = decode(content)
            if min(image.size) <= 2 * suite.border:
                raise BadImage("too small", f"{image.width} x {image.height} pixels")
        except BadImage as error:
            rejects.append(Reject(photograph.locator, error.reason, error.detail))
            continue
        except OSError as error:
            rejects.append(Reject(photograph.locator, "unreadable", str(error)))
            continue
        readable.append(photograph)
        as_it_is = not suite.border and is_plain_jpeg(content)
        yield key_of(photograph.locator), content if as_it_is else _png(image, suite.border), {"taxon_id": ""}


def _png(image: Image.Image, border: int) -> bytes:
    file = io.BytesIO()
    inner = image.crop((border, border, image.width - border, image.height - border))
    inner.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _check(root: Path, photographs: Sequence[Photograph], rejects: Sequence[Reject]) -> None:
    total = len(photographs) + len(rejects)
    if photographs and len(rejects) <= _BUDGET * total:
        return
    first = "".join(f"\n  {_shown(reject)}" for reject in rejects[:_EXAMPLES])
    raise UserError(
        f"{root}: {len(rejects)} of {total} photographs are of no use, and at most {100 * _BUDGET:g} % may be: the "
        f"others are another test set. Mend or fetch them again.{' The first:' if first else ''}{first}"
    )


def _shown(reject: Reject) -> str:
    return f"{reject.locator}: {reject.reason} ({reject.detail})"
