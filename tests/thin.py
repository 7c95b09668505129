"""A thinned pipeline: the real rules, engines, index, shards and captions; later stages only digest what they read.

Each output of a later stage is a digest of the contents of the job's inputs and of its parameters, so outputs change
exactly when they should, and a run takes seconds. ``new`` makes a checkout; as a program this file is the thin job.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

from bioclip_lite.provenance import Hashes

RULES = ("teacher", "logits", "distill", "prune", "quantize", "convert", "evaluate")
TAXA = {  # a family of mulberries, one of gannets
    "alba": ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "alba"),
    "nigra": ("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "nigra"),
    "bassanus": ("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "bassanus"),
}
COUNTS = {"pretrain": 0, "train": 4, "val": 1, "calibration": 1, "test": 1}
PHOTOGRAPHS = {"train": 12, "val": 2, "calibration": 2, "test": 2}  # per taxon


def new(folder: Path) -> Path:
    """A committed checkout with thin jobs and a folder of photographs under DVC; nothing made."""
    import checkout

    checkout.new(folder)
    for name in RULES:
        path = folder / f"workflow/rules/{name}.smk"
        thin, count = re.subn(
            r"python -m bioclip_lite \w+ .*?> \{log\} 2>&1",
            "python tests/thin.py --section {params.section:q} --outputs {output} --inputs {input} > {log} 2>&1",
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
    from photographs import FIELDS, row, write_folder

    rows = [
        row(f"{split}/{name}{i}.jpg", path, split=split, licence="CC-BY", source="A. Nyone")
        for name, path in TAXA.items()
        for split, count in PHOTOGRAPHS.items()
        for i in range(count)
    ]
    write_folder(folder / "data/photographs", rows, (*FIELDS, "split"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--section", default="")
    parser.add_argument("--outputs", nargs="+", type=Path, required=True)
    parser.add_argument("--inputs", nargs="*", default=[])
    job = parser.parse_args()
    time.sleep(float(os.environ.get("THIN_JOB_SECONDS", 0)))  # so that a run can be caught in the middle
    hashes = Hashes(ask_dvc=False)  # code by its meaning
    inputs = [path for path in job.inputs if not Path(path).name.startswith("ready-")]  # environments count for nothing
    read = str([job.section, *((path, hashes[path]) for path in inputs)])
    for path in job.outputs:
        made = f"{hashlib.sha256(f'{path} {read}'.encode()).hexdigest()}\n"
        files = [path] if "." in path.name else [path / "model.json", path / "weights.bin"]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{file.name} {made}")
    print(f"made {len(job.outputs)} outputs", file=sys.stderr)


if __name__ == "__main__":
    main()
