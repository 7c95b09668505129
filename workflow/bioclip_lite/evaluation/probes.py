"""Evaluate the embeddings of the test photographs: other prompts, the taxonomy, and retrieval by text.

Photographs come from the predictions of each variant that answers in the teacher's space, texts from those of the
teacher (``prompts``). All products are computed here with NumPy, so that the report needs no PyTorch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bioclip_lite.evaluation.predictions import Extra, Predictions, placed
from bioclip_lite.metrics import bootstrap, probes
from bioclip_lite.metrics.summary import Asked, estimate, interval, number
from bioclip_lite.taxa.label_space import Labels, Truth
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import drawn

# Part of the protocols' ids. Raise it when a definition changes.
_DEFINITIONS = 1
_SPECIES = 2000  # whose centroids are compared: two million pairs
_PAIRS = 1000  # of each height
_K = (1, 5, 10)
_WAYS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class Photographs:
    """The n test photographs."""

    keys: list[str]
    truth: Truth
    group: np.ndarray  # int64 [n], observations


@dataclass(frozen=True)
class _Seen:
    """Embeddings of the photographs by one variant."""

    right: np.ndarray  # float64 [n, P], NaN where the true leaf is not among those drawn
    centroids: np.ndarray  # float64 [T, D], unit vectors; 0 for a leaf without photographs
    embeddings: np.ndarray  # float32 [g, D], of photographs that texts are retrieved for


def measure(
    found: Mapping[str, Predictions], photographs: Photographs, labels: Labels, resamples: int, seed: int
) -> dict[str, Any]:
    """Sections "prompts", "taxonomy" and "retrieval" of metrics.json, without what was not asked for.

    Each has its "protocol", "n_images", "n_classes" and the like, and rows as those of ``summary``.
    """
    prompts = found["teacher"].extra("prompts")
    if prompts is None:
        return {}
    texts = {
        name.removeprefix("captions "): found["teacher"].extra(name)
        for name in found["teacher"].about
        if name.startswith("captions ")
    }
    gallery = sorted({key for text in texts.values() if text for key in text.about["keys"]})
    leaf = {taxon: number for number, taxon in enumerate(labels.ids)}
    leaves = np.array([leaf[taxon] for taxon in prompts.about["taxon_ids"]], dtype=np.int64)
    inside = [variant for variant, prediction in found.items() if prediction.has_embeddings]
    seen = {
        variant: _look(found[variant], photographs, prompts.values, leaves, gallery)
        for variant in progress(inside, len(inside), "evaluate: variants probed")
    }
    sections = {
        "prompts": _prompts(prompts, leaves, seen, photographs, resamples, seed),
        "taxonomy": _taxonomy(prompts, leaves, seen, photographs, labels, resamples, seed),
        "retrieval": {
            name: _retrieval(text, gallery, seen, photographs, resamples, seed) for name, text in texts.items() if text
        },
    }
    return {name: section for name, section in sections.items() if section}


def _look(
    prediction: Predictions, photographs: Photographs, texts: np.ndarray, leaves: np.ndarray, gallery: list[str]
) -> _Seen:
    """One pass over the embeddings of a variant; ``texts`` [P, T, D] of ``leaves`` [T], ``gallery``: keys."""
    column = _columns(photographs.truth, leaves)
    place = {key: row for row, key in enumerate(gallery)}
    row_of = np.array([place.get(key, -1) for key in photographs.keys], dtype=np.int64)
    right = np.full((len(column), len(texts)), np.nan)
    sums = np.zeros(texts.shape[1:], dtype=np.float64)
    embeddings = np.zeros((len(gallery), texts.shape[2]), dtype=np.float32)
    for here, block in placed(photographs.keys, prediction.embeddings()):
        known = column[here] >= 0
        asked, answers = column[here[known]], block[known]
        for prompt, text in enumerate(texts):
            right[here[known], prompt] = (answers @ text.T).argmax(axis=1) == asked
        np.add.at(sums, asked, answers)
        wanted = row_of[here] >= 0
        embeddings[row_of[here[wanted]]] = block[wanted]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return _Seen(right, sums / np.where(length > 0, length, 1), embeddings)


def _columns(truth: Truth, leaves: np.ndarray) -> np.ndarray:
    """Position of the species of each photograph in ``leaves``, int64 [n]; -1 if it is not there."""
    place = {leaf: column for column, leaf in enumerate(leaves.tolist())}
    return np.array([place.get(leaf, -1) for leaf in truth.leaf.tolist()], dtype=np.int64)


def _identity(kind: str, *facts: Any) -> str:
    return f"{kind}-" + hashlib.sha256(json.dumps([_DEFINITIONS, kind, *facts]).encode()).hexdigest()[:12]


# ---- other words for the taxa


def _prompts(
    prompts: Extra,
    leaves: np.ndarray,
    seen: Mapping[str, _Seen],
    photographs: Photographs,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Zero-shot accuracy with every prompt, and its paired difference to the pipeline's own, the first."""
    names = prompts.about["prompts"]
    if len(names) == 1:
        return {}
    column = _columns(photographs.truth, leaves)
    asked_of = np.flatnonzero(column >= 0)
    taxon_ids = prompts.about["taxon_ids"]
    variants: dict[str, Any] = {}
    for variant, one in seen.items():
        asked: Asked = {}
        for prompt, (kind, how) in enumerate(names):
            asked[kind, how, "top1"] = one.right[:, prompt], column
            asked[kind, how, "difference_to_own"] = one.right[:, prompt] - one.right[:, 0], column
        variants[variant] = estimate(asked, photographs.group, resamples, seed)
    own_kind, own_how = names[0]
    return {
        "protocol": {
            "id": _identity("prompts", [photographs.keys[row] for row in asked_of], taxon_ids),
            "top1": "nearest taxon text among the label space; photographs of a species that is not in it are left out",
            "label_space": "taxa drawn by hash, those of the test photographs first",
            "openai": "mean of the unit embeddings in OpenAI's 80 templates",
        },
        "own": {"type": own_kind, "templates": own_how},
        "n_images": len(asked_of),
        "n_left_out": len(column) - len(asked_of),
        "n_classes": len(np.unique(column[asked_of])),
        "label_space": len(leaves),
        "n_without_common_name": prompts.about["unnamed"],
        "variants": variants,
    }


# ---- the tree


def _taxonomy(
    prompts: Extra,
    leaves: np.ndarray,
    seen: Mapping[str, _Seen],
    photographs: Photographs,
    labels: Labels,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Are species that are far from each other in the tree far from each other as embeddings?"""
    column = _columns(photographs.truth, leaves)
    shown = np.unique(column[column >= 0])
    shown = shown[sorted(drawn([labels.ids[leaf] for leaf in leaves[shown]], _SPECIES, "evaluate", "taxonomy"))]
    names = [labels.ids[leaf] for leaf in leaves[shown]]
    first, second, height, there_are = probes.pairs(leaves[shown], names, labels.node_of_leaf, _PAIRS)
    if len(np.unique(height)) < 2:
        return {}
    everyone = np.arange(len(shown))
    counts = bootstrap.draws(len(everyone), resamples, seed, "bootstrap").astype(np.int64)  # they are multiplied

    def row(centroids: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        unit = centroids[shown]
        distance = np.maximum(0, 1 - np.einsum("pd,pd->p", unit[first], unit[second], dtype=np.float64))
        whole = probes.rank_correlation(distance, height, [np.ones(len(height))])[0]
        resampled = probes.rank_correlation(distance, height, (count[first] * count[second] for count in counts))
        by_height = {
            str(at): {"cosine_distance": number(distance[height == at].mean()), "n_pairs": int((height == at).sum())}
            for at in range(1, 8)
            if (height == at).any()
        }
        found = {"value": number(whole), "ci95": interval(resampled, everyone)}
        found |= {"n_pairs": len(height), "n_classes": len(shown)}
        return {"spearman": found, "by_height": by_height}, resampled

    variants, of_variant = {}, {}
    for variant, one in seen.items():
        variants[variant], of_variant[variant] = row(one.centroids)
    for variant, found in variants.items():
        if variant != "teacher":
            value = found["spearman"]["value"], variants["teacher"]["spearman"]["value"]
            found["difference_to_teacher"] = {
                "value": None if None in value else number(value[0] - value[1]),
                "ci95": interval(of_variant[variant] - of_variant["teacher"], everyone),
            }
    texts: dict[str, Any] = {}
    for (kind, how), text in zip(prompts.about["prompts"], prompts.values, strict=True):
        texts.setdefault(kind, {})[how] = row(text)[0]
    counted = np.isin(column, shown)
    return {
        "protocol": {
            "id": _identity("taxonomy", [photographs.keys[row] for row in np.flatnonzero(counted)], names),
            "spearman": "rank correlation of cosine distance and height of the lowest common ancestor (1 the same "
            "genus, 7 nothing in common), over pairs of species",
            "images": "a species is the mean of the unit embeddings of its test photographs",
            "texts": "a species is its text in the prompt",
            "pairs": f"at most {_PAIRS} of each height, drawn by hash",
            "interval": "percentile, 95 %, resampling species; differences are paired",
        },
        "n_images": int(counted.sum()),
        "n_classes": len(shown),
        "label_space": len(labels.ids),
        "n_pairs_there_are": {str(at): int(there_are[at]) for at in range(1, 8)},
        "variants": variants,
        "texts": texts,
    }


# ---- texts that find photographs


def _retrieval(
    text: Extra,
    gallery: list[str],
    seen: Mapping[str, _Seen],
    photographs: Photographs,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Recall at k of one kind of text, both ways."""
    keys, captions = text.about["keys"], text.about["captions"]
    place, row_of = ({key: row for row, key in enumerate(of)} for of in (gallery, photographs.keys))
    rows = np.array([row_of[key] for key in keys], dtype=np.int64)
    own = np.zeros((len(keys), len(text.values)), dtype=bool)
    for row, numbers in enumerate(captions):
        own[row, numbers] = True
    groups = np.unique(photographs.group[rows], return_inverse=True)[1].reshape(-1)
    species = photographs.truth.leaf[rows]
    first = own.argmax(axis=0)  # of the photographs that a text belongs to
    queries = {"image_to_text": (own, groups, species), "text_to_image": (own.T, groups[first], species[first])}
    n = {"n_images": len(keys), "n_texts": len(text.values), "n_classes": len(np.unique(species[species >= 0]))}
    variants: dict[str, Any] = {}
    for variant, one in seen.items():
        similarity = one.embeddings[[place[key] for key in keys]] @ text.values.T
        variants[variant] = {}
        for way, near in zip(_WAYS, (similarity, similarity.T), strict=True):
            belongs, group, classes = queries[way]
            found = probes.places_of_own(near, belongs)
            asked: Asked = {(f"recall_at_{k}",): ((found < k).astype(np.float64), classes) for k in _K}
            rows_of = estimate(asked, group, resamples, seed)
            variants[variant][way] = {
                name: {"n_queries" if part == "n_images" else part: value for part, value in row.items()}
                for name, row in rows_of.items()
            }
    return {
        "protocol": {
            "id": _identity("retrieval", keys, captions),
            "recall_at_k": "share of queries with one of their own among the k nearest; equal texts are one text, and "
            "it belongs to every photograph of which it is said",
            "photographs": "at most a thousand of those that a text is said of, drawn by hash",
        },
        **n,
        "n_without_text": text.about["without"],
        "images_per_text": number(own.sum(axis=0).mean()),
        "chance": {
            way: {f"recall_at_{k}": number(probes.chance(belongs.sum(axis=1), belongs.shape[1], k)) for k in _K}
            for way, (belongs, _, _) in queries.items()
        },
        "variants": variants,
    }
