"""A bundle without a model, and a teacher that embedded its taxa, for the tests of what is made from bundles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_lite.models import teachers
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.texts import text_types
from bioclip_lite.web import bundle, confidence
from support import fake_data, lessons

WEIGHTS = 64 * "b"
GANNETS = ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus")
MULBERRIES = ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus")
DAISY = ("Plantae", "Tracheophyta", "Magnoliopsida", "Asterales", "Asteraceae", "Bellis", "perennis")
TAXA: dict[TaxonPath, dict[str, str]] = {  # in tree order
    (*GANNETS, "bassanus"): {"de": "Basst\u00f6lpel", "en": "Northern Gannet"},
    (*GANNETS, "serrator"): {},
    DAISY: {"en": "Daisy"},
    (*MULBERRIES, "alba"): {},
    (*MULBERRIES, "nigra"): {},
}


def make_teacher(data: Path) -> teachers.Teacher:
    """An untrained teacher in teacher/model of a data folder."""
    fake_data.save_teacher(data)
    return teachers.load_teacher(data / "teacher" / "model")


def make_bundle(folder: Path, teacher: teachers.Teacher, **changes: Any) -> dict[str, Any]:
    """Write a bundle of TAXA whose table ``teacher`` embedded; its model is any bytes. Returns its bundle.json.

    Args:
        changes: of entries of bundle.json.
    """
    folder.mkdir(parents=True)
    prompts = [text_types.caption(path, names.get("en"), "taxon_com") for path, names in TAXA.items()]
    vectors = dict(zip(TAXA, teachers.embed_texts(teacher, prompts), strict=True))
    table = bundle.table_of(vectors, TAXA, dict.fromkeys(TAXA, bundle.Remark(False, len(RANKS) - 1, None)), {}, None)
    model = bundle.add(folder, "model", ".json", b"{}")
    bundle.add(folder, "weights", ".bin", b"weights")
    text = {"file": bundle.add(folder, "taxa", ".bin", table.content()), "prompt": "taxon_com", "dtype": "int8"}
    files = bundle.listed(folder)
    about = {
        "format": bundle.FORMAT,
        "embedding": lessons.D,
        "logit_scale": 20.0,
        "temperature": 1.5,
        "thresholds": {"level": 0.95, "confidence": 0.9, "ranks": dict.fromkeys(RANKS, 0.7)},
        "ranks": list(RANKS),
        "languages": table.languages(),
        "taxa": table.described,
        "text": {**text, "rows": len(table.paths), "columns": lessons.D, "left_out": 0, "representatives": 0},
        "model": {"file": model},
        "files": files,
        "bytes": sum(file["bytes"] for file in files.values()),
        "provenance": {
            "teacher": "small",
            "teacher_identity": teacher.identity,
            "weights_sha256": WEIGHTS,
            "taxonomy_sha256": bundle.sha256(bundle.json_bytes(table.described)),
            "calibration_photographs": 100,
        },
        **changes,
    }
    (folder / bundle.FILE).write_bytes(bundle.json_bytes(about) + b"\n")
    return about


def photographs(
    rows: Mapping[TaxonPath, np.ndarray], labels: Sequence[TaxonPath], noise: float = 0.05
) -> confidence.Photographs:
    """Calibration photographs, each an observation, that a model sees near the row of their label."""
    embeddings = [
        lessons.unit(rows[label] + noise * lessons.generator("seen", number).normal(size=lessons.D))
        for number, label in enumerate(labels)
    ]
    keys = [f"photograph-{number:04d}" for number in range(len(labels))]
    return confidence.Photographs(keys, [f"o-{key}" for key in keys], list(labels), np.stack(embeddings))
