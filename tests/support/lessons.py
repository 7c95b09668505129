"""A data folder of a few small photographs, made in a second, for the tests of the learning stages."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bioclip_lite.photographs import views
from bioclip_lite.photographs.shards import ShardSet, shard_names, write_shard
from bioclip_lite.taxa import taxonomy
from bioclip_lite.teacher_cache import store, synthetic_captions
from bioclip_lite.texts import text_types
from bioclip_lite.utils import sections
from bioclip_lite.utils.files import read_json, write_json, write_table
from bioclip_lite.utils.randomness import generator
from support.photographs import encoded, picture

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

# Five leaves; the last path is a genus with species below it, so it is no leaf.
PATHS: list[taxonomy.Path] = [
    ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "bassanus"),
    ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "serrator"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Asterales", "Asteraceae", "Bellis", "perennis"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "alba"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "nigra"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", None),
]
IDS = [taxonomy.taxon_id(path) for path in PATHS]
IMAGES = {"pretrain": 2, "train": 6, "val": 2, "calibration": 1, "test": 1}  # per taxon
VIEWS: "jobs.Logits" = {
    "views": 3,
    "crop_scale": [0.5, 1.0],
    "operations": 2,
    "magnitude": 0.5,
    "prompt": "taxon_com",
    "templates": "plain",
    "logit_scale": "given",
    "precision": "float16",
    "forward_precision": "auto",
    "seed": 0,
    "taxa_bytes": None,
    "over_budget": "refuse",
}
D = 16
DISTILL: sections.Distill = {
    "student": "mobilenetv4_conv_small_035",
    "student_options": {},
    "text_tower": None,
    "image_size": 32,
    "weights": None,
    "allow_research_only": False,
    "epochs": 2,
    "batch_size": 8,
    "accumulation": 1,
    "shuffle_buffer": 100_000,
    "learning_rate": 0.002,
    "warm_up": 0.1,
    "weight_decay": 0.05,
    "betas": [0.9, 0.98],
    "eps": 1e-8,
    "precision": "auto",
    "affinity": 1.0,
    "temperature": 1.0,
    "splits": ["train"],
    "teachers": ["model"],
    "cosine": 1.0,
    "ranks": 0.0,
    "labels": 0.0,
    "ema": 0.0,
    "finetune": {"epochs": 0, "learning_rate": 0.001, "warm_up": 0.1},
    "control": True,
    "seed": 0,
}
TEACHER: dict[str, Any] = {
    "kind": "train",
    "captions": ["sci", "taxon_com"],
    "allow_research_only": False,
    "allow_weak": True,
    "ensemble": [],
    "seed": 0,
    "train": {
        "splits": ["pretrain", "train"],
        "image_tower": "mobilenetv4_conv_small_035",
        "image_size": 32,
        "embed_dim": D,
        "text_width": 64,
        "text_layers": 1,
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.001,
        "accumulation": 1,
        "shuffle_buffer": 100_000,
        "warm_up": 0.1,
        "weight_decay": 0.1,
        "betas": [0.9, 0.98],
        "eps": 1e-8,
        "precision": "auto",
        "ema": 0.0,
    },
    "lit": {
        "image_tower": "mobilenetv2_050",
        "text_tower": None,
        "image_tower_options": {"pad_type": "same"},
        "weights": "tower.safetensors",
        "image_size": 32,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "text_width": 64,
        "text_layers": 1,
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.001,
        "accumulation": 1,
        "shuffle_buffer": 100_000,
        "warm_up": 0.1,
        "weight_decay": 0.1,
        "betas": [0.9, 0.98],
        "eps": 1e-8,
        "precision": "float32",
    },
    "pretrained": {"model": "ViT-B-32", "weights": None},
}


def make_data(folder: Path) -> Path:
    """index/taxa.parquet, shard/ and caption/ of a data folder."""
    rows = [
        {
            **{"taxon_id": taxon, **dict(zip(taxonomy.RANKS, path, strict=True)), "common_name": None},
            **{"supercategory": None, "leaf": bool(path[6]), "pretrain": 0, "train": 1},
        }
        for taxon, path in zip(IDS, PATHS, strict=True)
    ]
    write_table(folder / "index" / "taxa.parquet", pa.Table.from_pylist(rows))
    sizes = {}
    for split, count in IMAGES.items():
        keys = sorted((f"{split}-{t}-{n}", t) for t in range(len(PATHS)) for n in range(count))
        for number in range(2 if split == "train" else 1):
            part = keys[number::2] if split == "train" else keys
            name = f"{split}-{number:05d}"
            samples = [(key, encoded(picture(t, key, size=(44, 40))), {"taxon_id": IDS[t]}) for key, t in part]
            sizes[f"{name}.tar"] = write_shard(folder / "shard" / f"{name}.tar", samples)
            texts = [
                {"key": key, **{kind: text_types.caption(PATHS[t], None, kind) for kind in text_types.TYPES}}
                for key, t in part
            ]
            write_table(folder / "caption" / f"{name}.parquet", pa.Table.from_pylist(texts))
    write_json(folder / "shard" / "sizes.json", sizes)
    return folder


def add_unlabelled(folder: Path, count: int) -> Path:
    """A shard of photographs without labels, and its cache."""
    samples = [
        (f"unlabelled-{n}", encoded(picture("unlabelled", n, size=(44, 40))), {"taxon_id": None}) for n in range(count)
    ]
    size = write_shard(folder / "shard" / "unlabelled-00000.tar", samples)
    sizes = read_json(folder / "shard" / "sizes.json")
    write_json(folder / "shard" / "sizes.json", {**sizes, "unlabelled-00000.tar": size})
    taxa = store.read_taxa(folder / "logits" / "taxa.safetensors")
    write_cached(folder, "unlabelled-00000", taxa.text, taxa.taxon_ids, taxa.teacher)
    return folder


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def make_cache(folder: Path, teacher: str = "teacher-a", width: int = D) -> Path:
    """logits/ of a data folder as a teacher would have made it that knows every species."""
    leaves = [taxon for taxon, path in zip(IDS, PATHS, strict=True) if path[6]]
    text = unit(generator("text").normal(size=(len(leaves), width)))
    store.write_taxa(folder / "logits" / "taxa.safetensors", leaves, text, 20.0, teacher, "taxon_com")
    for name in shard_names(folder):
        if not name.startswith("pretrain"):
            write_cached(folder, name, text, leaves, teacher)
    return folder


def write_cached(folder: Path, name: str, text: np.ndarray, leaves: list[str], teacher: str) -> None:
    images = ShardSet.of(folder / "shard" / f"{name}.tar")
    count = VIEWS["views"] if name.startswith(("train", "unlabelled")) else 1
    embeddings, rows = [], []
    for key, taxon in zip(images.keys, images.taxon_ids, strict=True):
        own = text[leaves.index(taxon)] if taxon in leaves else text.mean(0)
        embeddings.append(unit(own + 0.05 * generator("noise", key).normal(size=(count, text.shape[1]))))
        drawn = [views.draw(generator("view", key, k), VIEWS) for k in range(1, count)]
        rows.append(np.stack([views.plain_view(VIEWS["operations"]), *drawn]))
    identity = {"teacher": teacher, "views": views.VERSION, "preprocess": '{"size": 32}'}
    path = folder / "logits" / f"{name}.safetensors"
    digests = np.array([store.image_digest(images.jpeg(i)) for i in range(len(images))], np.uint64)
    encoded = store.encode(np.stack(embeddings), VIEWS["precision"])
    store.write_shard(path, images.keys, digests, np.stack(rows), encoded, identity)


def write_texts(folder: Path, teacher: str = "teacher-a") -> None:
    """What the teacher makes of every taxon in every text type: near the species it is, whatever the type."""
    text = store.read_taxa(folder / "logits" / "taxa.safetensors").text
    leaves = [taxon for taxon, path in zip(IDS, PATHS, strict=True) if path[6]]
    own = np.stack([text[leaves.index(taxon)] if taxon in leaves else text.mean(0) for taxon in IDS])
    near = [unit(own + 0.1 * generator("texts", kind).normal(size=own.shape)) for kind in text_types.TYPES]
    store.write_texts(folder / "logits" / "texts.safetensors", text_types.TYPES, IDS, np.stack(near), teacher)


def write_synthetic(folder: Path, captioner: str = "coca", teacher: str = "teacher-a") -> dict[str, list[str]]:
    """Two captions of each photograph to learn from, near the embedding of its species, and none of every fifth one."""
    taxa = store.read_taxa(folder / "logits" / "taxa.safetensors")
    said: dict[str, list[str]] = {}
    for name in shard_names(folder, "train"):
        images = ShardSet.of(folder / "shard" / f"{name}.tar")
        rows = [taxa.taxon_ids.index(taxon) if taxon in taxa.taxon_ids else 0 for taxon in images.taxon_ids]
        texts = [[f"{captioner} {n} of {key}" if i % 5 else "" for n in "ab"] for i, key in enumerate(images.keys)]
        near = [
            [unit(taxa.text[row] + 0.1 * generator(text).normal(size=taxa.text.shape[1])) for text in both]
            for row, both in zip(rows, texts, strict=True)
        ]
        path = synthetic_captions.path(folder, captioner, name)
        synthetic_captions.write(path, images.keys, texts, np.array(near), teacher)
        said |= zip(images.keys, texts, strict=True)
    return said
