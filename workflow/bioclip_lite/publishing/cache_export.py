"""The teacher cache as a data set of its own, without photographs: others distil without running the teacher."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.models import teachers
from bioclip_lite.photographs import views
from bioclip_lite.photographs.shards import ShardSet, shard_names, split_of
from bioclip_lite.publishing import croissant
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, require, write_json, write_table
from bioclip_lite.utils.progress import progress

FILE = "cache.json"
FORMAT = 1
LOADER = Path(__file__).with_name("load_cache.py")
README = "README.md"
CROISSANT = "croissant.json"
_SHARDS = "*-*.parquet"
NAMES = (FILE, README, CROISSANT, LOADER.name, "taxa.parquet", _SHARDS)
_DESCRIBED = ("taxon_id", "licence", "attribution")  # of a photograph, beside its key


def write(folder: Path, data: Path, teacher: str) -> dict[str, Any]:
    """Write the cache of a teacher to an empty folder, one shard after the other; returns the content of cache.json.

    Raises:
        UserError: a part of the cache is missing or damaged, or of another teacher or other photographs.
    """
    source = store.folder(data, teacher)
    taxa = store.read_taxa(source / "taxa.safetensors")
    names = [name for name in shard_names(data) if (source / f"{name}.safetensors").exists()]
    if not names:
        raise UserError(f"{source} has no cache of any shard; stage logits makes it (snakemake --cores all logits)")
    shards = [store.read_shard(source / f"{name}.safetensors") for name in names]
    store.check_same(shards, taxa)
    for name in progress(names, len(names), "export-cache"):
        shard = store.read_shard(source / f"{name}.safetensors")  # again: a shard keeps the keys that were asked for
        write_table(folder / f"{name}.parquet", _table(name, shard, ShardSet.of(data / "shard" / f"{name}.tar")))
    write_table(folder / "taxa.parquet", _taxa(data, taxa))
    about = _about(data, teacher, taxa, shards)
    write_json(folder / FILE, about)
    write_json(folder / CROISSANT, _croissant(folder, names[0], about))
    (folder / LOADER.name).write_bytes(LOADER.read_bytes())
    (folder / README).write_text(_readme(about), encoding="utf-8")
    return about


def _table(name: str, shard: store.Shard, photographs: ShardSet) -> pa.Table:
    if shard.keys != photographs.keys:
        raise UserError(f"{shard.path} lists other photographs than data/shard/{name}.tar; run stage logits again")
    n = len(shard.keys)
    described = list(_descriptions(photographs))
    if shard.scales is None:
        encoded = store.encode(shard.target(slice(None), slice(None)), "int8")
    else:
        encoded = {"embeddings": shard.embeddings, "scales": shard.scales}
    return pa.table(
        {
            "key": pa.array(shard.keys, pa.string()),
            "split": pa.array([split_of(name)] * n, pa.string()),
            **{field: pa.array([said.get(field) for said in described], pa.string()) for field in _DESCRIBED},
            "image": pa.array(np.asarray(shard.images), pa.uint64()),
            "views": _lists(np.asarray(shard.views), pa.float32()),
            "embeddings": _lists(np.asarray(encoded["embeddings"]), pa.int8()),
            "scales": _lists(np.asarray(encoded["scales"]), pa.float32()),
        }
    )


def _descriptions(photographs: ShardSet) -> Iterator[dict[str, Any]]:
    for i in range(len(photographs)):
        yield photographs.description(i)


def _lists(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A column of one list for each row of an array (n, ...)."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), kind), rows.shape[1])


def _taxa(data: Path, taxa: store.Taxa) -> pa.Table:
    """Names and text embedding of each taxon, in the order of the cache."""
    table = read_table(data / "index" / "taxa.parquet", ["taxon_id", *RANKS])
    names = {row.pop("taxon_id"): row for row in table.to_pylist()}
    rows = [names[taxon] for taxon in taxa.taxon_ids]
    columns = {rank: pa.array([row[rank] for row in rows], pa.string()) for rank in RANKS}
    return pa.table({"taxon_id": taxa.taxon_ids, **columns, "text": _lists(taxa.text, pa.float32())})


def _about(data: Path, teacher: str, taxa: store.Taxa, shards: list[store.Shard]) -> dict[str, Any]:
    said = read_json(require(data / "teacher" / teacher / teachers.TEACHER_FILE))
    if said["identity"] != taxa.teacher:
        raise UserError(f"the cache of {teacher} is of another teacher than data/teacher/{teacher}; run stage logits")
    preprocess = read_json(require(data / "teacher" / teacher / "preprocess.json"))
    first = shards[0]
    return {
        "format": FORMAT,
        "teacher": {"name": said["name"], "identity": said["identity"], "licence": said["licence"]},
        "identity": first.identity,
        "preprocess": preprocess,
        "operations": list(views.OPERATIONS),
        "view": first.views.shape[2],
        "embedding": first.embeddings.shape[2],
        "taxa": len(taxa.taxon_ids),
        "photographs": sum(len(shard.images) for shard in shards),
        "prompt": taxa.prompt,
        "logit_scale": taxa.logit_scale,
    }


def _croissant(folder: Path, shard: str, about: dict[str, Any]) -> Any:
    """The description of the tables, whose columns are those of one ``shard``; K differs between splits."""
    files = {"photographs": (_SHARDS, f"{shard}.parquet"), "taxa": ("taxa.parquet", "taxa.parquet")}
    tables = {name: (pattern, pq.read_schema(folder / file)) for name, (pattern, file) in files.items()}
    said = f"Embeddings of photographs and taxa by {about['teacher']['name']}; README.md has the format"
    return croissant.describe("teacher-cache", said, about["teacher"]["licence"], tables)


def _readme(about: dict[str, Any]) -> str:
    teacher = about["teacher"]
    return f"""# Teacher cache of {teacher["name"]}

Embeddings of {about["photographs"]} photographs, each in several views, and of {about["taxa"]} taxa, by
{teacher["name"]} (licence: {teacher["licence"] or "not stated"}; identity {teacher["identity"]}).
A student learns from them without running the teacher. The photographs are not here: `key` and `image` tell which they
are, `licence` and `attribution` whose they are. Written by `bioclip-lite export-cache`, format {about["format"]}.

- `<split>-<number>.parquet`, a row for each photograph:
  - `key`, `split`, `taxon_id`, `licence`, `attribution`: text, null where it is not known
  - `image`: the first 64 bits of the SHA-256 of the file (JPEG, as in the shard)
  - `views`: float32, K x {about["view"]}, row by row; K may differ between splits. A view is `area, log_aspect, x, y`,
    then number and amount of each operation. `area`: the share that the crop covers, 0 for preprocessing alone;
    `log_aspect`: the logarithm of its width / height; `x`, `y`: its place between left and right, top and bottom, in
    [0, 1]. Operations are numbered from 0: {", ".join(about["operations"])};
    amounts lie in [-1, 1], and 0 changes nothing
  - `embeddings`: int8, K x {about["embedding"]}; `scales`: float32, K. The unit embedding is scale * int8
- `taxa.parquet`: `taxon_id`, seven ranks, and `text`, the unit text embedding, float32, for prompt {about["prompt"]}
- `cache.json`: identities, preprocessing, `logit_scale`; logits are logit_scale * embedding . text
- `croissant.json`: the tables in Croissant 1.1
- `load_cache.py`: reads them with numpy and pyarrow

```python
import load_cache

photographs, views, embeddings = load_cache.read_shard("train-00000.parquet")
taxa, text, scale = load_cache.read_taxa(".")
teacher_says = load_cache.logits(embeddings, text, scale)
```
"""
