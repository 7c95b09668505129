"""Small folders of photographs and the parameters to index them, for the tests of the data stages."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bioclip_lite.utils.randomness import generator

FIELDS = (
    "file",
    "common_name",
    "kingdom",
    "phylum",
    "class",
    "order",
    "family",
    "genus",
    "species",
    "licence",
    "source",
)
DAISY = ("Plantae", "Tracheophyta", "Magnoliopsida", "Asterales", "Asteraceae", "Bellis", "perennis")
MULBERRY = ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "alba")
GANNET = ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "bassanus")


def picture(*names: object, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Image.Image:
    """Smooth noise that depends on ``names``."""
    width, height = size
    cells = generator(*names).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_folder(folder: Path, photographs: list[dict[str, Any]], columns: tuple[str, ...] = FIELDS) -> Path:
    """Write the files (those that have ``content``, default a picture) and metadata.csv; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as table:
        rows = csv.DictWriter(table, columns, extrasaction="ignore", restval="")
        rows.writeheader()
        for photograph in photographs:
            rows.writerow(photograph)
            content = photograph.get("content", encoded(picture(photograph["file"])))
            if content is not None:
                (folder / photograph["file"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / photograph["file"]).write_bytes(content)
    return folder


def row(file: str, path: tuple[str | None, ...], **more: Any) -> dict[str, Any]:
    ranks = dict(zip(FIELDS[2:9], (name or "" for name in path), strict=True))
    return {"file": file, **ranks, **more}


def garden(folder: Path, each: int = 6) -> Path:
    """A good folder: ``each`` photographs of a daisy, a mulberry and a gannet."""
    taxa = {"daisy": DAISY, "mulberry": MULBERRY, "gannet": GANNET}
    rows = [row(f"{name}/{i}.jpg", path, common_name=name) for name, path in taxa.items() for i in range(each)]
    return write_folder(folder, rows)


def folder_params(path: Path, **more: Any) -> Any:
    """Section ``index`` for source folder."""
    split = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}
    return {
        **{"source": "folder", "path": str(path), "where": {}, "min_side": 16, "split": split, "seed": 0},
        **{"species_list": None, "unlisted": "leave_out", "synonyms": None, "taxonomy": None, "teacher_saw": None},
        **{"licences": [], "near_duplicates": 4, "reject_budget": 1.0, "unlabelled": "leave_out", "parts": 1},
        "downloads": {"folder": str(path.parent / "downloads"), "per_host": 4, "tries": 3, "timeout": 5},
        "synthetic": {},
        **more,
    }


def synthetic_params(**more: Any) -> Any:
    """Section ``index`` for a small synthetic source; ``more`` goes to its own part."""
    images = {"pretrain": 2, "train": 3, "val": 1, "calibration": 1, "test": 2}
    synthetic = {"species": 10, "unseen_species": 1, "image_size": 32, "images": images}
    synthetic |= {"within_species": 0.12, "nuisance": 0.7, **more}
    return {**folder_params(Path("absent")), "source": "synthetic", "synthetic": synthetic}


def many(folder: Path, count: int, kinds: int = 500, taxa: int = 50) -> Any:
    """Section ``index`` for a folder of ``count`` small photographs, to measure time and memory with.

    They are ``kinds`` pictures over and over. Each file differs from all others, by a comment; every 100 photographs
    are one observation.
    """
    contents = [encoded(picture("many", i), quality=60) for i in range(min(kinds, count))]
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "kingdom", "family", "genus", "species", "observation", "licence", "source"))
        for i in range(count):
            name, taxon = f"{i // 1000}/{i:07d}.jpg", i % len(contents) % taxa
            content, comment = contents[i % len(contents)], f"photograph {i:07d}".encode()
            if i % 1000 == 0:
                (folder / str(i // 1000)).mkdir()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment  # a JPEG comment, after the start
            (folder / name).write_bytes(content[:2] + segment + content[2:])
            epithet = "abcdefghij"[taxon // 10] + "abcdefghij"[taxon % 10] + "ensis"
            rows.writerow(
                (name, "Animalia", "Examplidae", "Exemplum", epithet, f"visit-{i // 100}", "CC0", f"person {i}")
            )
    return folder_params(folder)
