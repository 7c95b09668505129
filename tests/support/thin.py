"""A thinned pipeline: the real rules, engines, index, shards and captions; later stages only digest what they read.

Each output of a later stage is a digest of the contents of the job's inputs and of its parameters, so outputs change
exactly when they should, and a run takes seconds. ``new`` makes a checkout; as a program this file is the thin job,
which needs nothing but the standard library and so starts in no time (``python -SE``).
"""

import hashlib
import json
import os
import sys
import time
from functools import cache
from pathlib import Path

RULES = ("teacher", "logits", "distill", "prune", "quantize", "convert", "evaluate")
TAXA = {  # a family of mulberries, one of gannets
    "alba": ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "alba"),
    "nigra": ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "nigra"),
    "bassanus": ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "bassanus"),
}
COUNTS = {"pretrain": 0, "train": 4, "val": 1, "calibration": 1, "test": 1}
PHOTOGRAPHS = {"train": 12, "val": 2, "calibration": 2, "test": 2}  # per taxon


def new(folder: Path, rules: tuple[str, ...] = RULES) -> Path:
    """A committed checkout with thin jobs and a folder of photographs under DVC; nothing made.

    ``rules``: the stages whose jobs are thin.
    """
    import re

    from support import checkout

    checkout.new(folder)
    for name in rules:
        path = folder / f"workflow/rules/{name}.smk"
        thin, count = re.subn(
            r"python -m bioclip_lite \w+ .*?> \{log\} 2>&1",
            "python -SE tests/support/thin.py {params.section:q} {output} -- {input} > {log} 2>&1",
            path.read_text(),
            flags=re.DOTALL,
        )
        assert count, f"{path} has no job to make thin"
        path.write_text(thin)
    write_photographs(folder)
    checkout.set_parameter(folder, "index.source", "folder")
    checkout.set_parameter(folder, "index.path", "data/photographs")
    checkout.set_parameter(folder, "shard.counts", COUNTS)
    checkout.set_parameter(folder, "teacher.kind", "pretrained")
    checkout.sh("dvc add -q data/photographs && git add -A && git commit -q -m thin", folder)
    return folder


def write_photographs(folder: Path) -> None:
    from support.photographs import FIELDS, row, write_folder

    rows = [
        row(f"{split}/{name}{i}.jpg", path, split=split, licence="CC-BY", source="A. Nyone")
        for name, path in TAXA.items()
        for split, count in PHOTOGRAPHS.items()
        for i in range(count)
    ]
    write_folder(folder / "data/photographs", rows, (*FIELDS, "split"))


def main() -> None:
    section, *paths = sys.argv[1:]
    outputs, inputs = paths[: paths.index("--")], paths[paths.index("--") + 1 :]
    time.sleep(float(os.environ.get("THIN_JOB_SECONDS", 0)))  # so that a run can be caught in the middle
    inputs = [path for path in inputs if not os.path.basename(path).startswith("ready-")]  # environments do not count
    read = str([section, *((path, content(path)) for path in inputs)])
    for output in outputs:
        made = f"{hashlib.sha256(f'{output} {read}'.encode()).hexdigest()}\n"
        path = Path(output)
        files = [path] if "." in path.name else [path / "model.json", path / "weights.bin"]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{file.name} {made}")
    print(f"made {len(outputs)} outputs", file=sys.stderr)


def content(path: str) -> str:
    """A digest of a file, of code by its meaning, or of a folder."""
    if os.path.isdir(path):
        files = sorted(str(file) for file in Path(path).rglob("*") if file.is_file() and not file.name.startswith("."))
        return str([(file, content(file)) for file in files])
    if not path.endswith((".py", ".smk")):
        return hashlib.md5(Path(path).read_bytes()).hexdigest()
    status = os.stat(path)
    identity, digest = known().get(path, (None, ""))
    if identity == [status.st_mtime_ns, status.st_size, status.st_ino]:
        return digest
    from bioclip_lite.utils.code_fingerprint import meaning

    return meaning(Path(path).read_bytes())


@cache
def known() -> dict[str, tuple[list[int], str]]:
    """What Snakemake has read at its start (provenance.HASHES)."""
    file = Path(".snakemake/bioclip_lite/hashes.json")
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    sys.path.insert(0, "workflow")
    main()
