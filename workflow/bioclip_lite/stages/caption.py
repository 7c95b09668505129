"""Stage caption: write the captions of each photograph, one table per shard.

Text types name the taxon, data/caption/<shard>.parquet; captioners describe the photograph itself,
data/caption/<captioner>/<shard>.parquet, with one column per caption: <captioner>_0 ... A captioner may first be
fine-tuned on a caption set, data/caption/<captioner>/model.
"""

import importlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from bioclip_lite.photographs.shards import UNLABELLED, ShardSet, descriptions, shard_names, split_of
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.texts.captions import all_texts, text_types
from bioclip_lite.utils import job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, require, write_json, write_table
from bioclip_lite.utils.progress import progress

if TYPE_CHECKING:
    from bioclip_lite.params import jobs
    from bioclip_lite.utils import sections

COLUMNS = "lit_columns.json"
JOBS = ("columns", "{shard}", "{captioner}/model", "{captioner}/{shard}")  # job_names


def run(params: "sections.Caption", data: Path, job: str | None = None) -> None:
    """Do one job, or with None all of them.

    ``job``: "columns" (where lit_columns is auto), then "train-00000" for the text types of a shard;
    "<captioner>/model" (where it has fine_tuning), then "<captioner>/train-00000" for its descriptions of a shard.
    """
    for name in [job] if job else _jobs(params, data):
        form, fields = job_names.parse("caption", name, JOBS)
        if form == "columns":
            _choose_columns(data)
        elif form == "{shard}":
            _write_texts(params, data, fields["shard"])
        elif form == "{captioner}/model":
            _fine_tune(params, data, fields["captioner"])
        else:
            _describe(params, data, fields["captioner"], fields["shard"])


def _jobs(params: "sections.Caption", data: Path) -> list[str]:
    shards = [name for name in shard_names(data) if split_of(name) != UNLABELLED]
    models = [f"{captioner['name']}/model" for captioner in params["captioners"] if captioner.get("fine_tuning")]
    described = [f"{captioner['name']}/{shard}" for captioner in params["captioners"] for shard in shards]
    return [*(["columns"] if params["lit_columns"] == "auto" else []), *shards, *models, *described]


def _choose_columns(data: Path) -> None:
    from open_clip import SimpleTokenizer  # takes seconds to import, and the jobs of shards do without

    from bioclip_lite.texts import lit_columns

    taxa = read_table(data / "index" / "taxa.parquet", [*RANKS, "common_name", "supercategory", "leaf"]).to_pylist()
    classes = [
        (tuple(row[rank] for rank in RANKS), row["common_name"], row["supercategory"]) for row in taxa if row["leaf"]
    ]
    columns, distance = lit_columns.choose_columns(classes, SimpleTokenizer().encode)
    write_json(data / "caption" / COLUMNS, columns)
    print(
        f"caption: the LiT sentence lists {', '.join(columns)}; {distance:.0%} of the words of each of {len(classes)} "
        f"classes and of its nearest differ"
    )


def _write_texts(params: "jobs.Texts", data: Path, name: str) -> None:
    columns = params["lit_columns"]
    if columns == "auto":
        columns = read_json(require(data / "caption" / COLUMNS))
    # Store the LiT columns so that later stages build the same prompt.
    metadata = {"lit_columns": json.dumps(columns)}
    schema = pa.schema([(column, pa.string()) for column in ("key", *text_types(params))], metadata)
    rows = [
        {"key": key, **all_texts(description, params, columns)}
        for key, description in descriptions(data / "shard" / f"{name}.tar")
    ]
    write_table(data / "caption" / f"{name}.parquet", pa.Table.from_pylist(rows, schema))
    print(f"caption: {name}, {len(rows)} photographs with {len(schema) - 1} captions each")


def _chosen(params: "jobs.FineTunedCaptioner | jobs.Descriptions", captioner: str) -> "sections.CaptionCaptioners":
    chosen = next((entry for entry in params["captioners"] if entry["name"] == captioner), None)
    if chosen is None:
        raise UserError(f"caption: params.yaml, caption.captioners names no {captioner!r}")
    return chosen


def _fine_tune(params: "jobs.FineTunedCaptioner", data: Path, captioner: str) -> None:
    chosen = _chosen(params, captioner)
    if not chosen.get("fine_tuning"):
        raise UserError(f"caption: params.yaml, caption.captioners, {captioner} has no fine_tuning, so there is no job")
    fine_tuning = importlib.import_module("bioclip_lite.captioning.fine_tuning")  # as in _describe
    history = fine_tuning.fine_tune(chosen, data, params["seed"])
    print(f"caption: {captioner} is fine-tuned; val_caption_loss {history[-1]['val_caption_loss']:.3f} nats per token")


def _describe(params: "jobs.Descriptions", data: Path, captioner: str, name: str) -> None:
    chosen = _chosen(params, captioner)
    # An import at the top would take seconds and make this module an input of the text types; only the rule of this job
    # names it.
    coca = importlib.import_module("bioclip_lite.captioning.coca")
    began = time.monotonic()
    images = ShardSet.of(data / "shard" / f"{name}.tar")
    texts = coca.describe(coca.find(chosen, data), images, chosen, params["seed"])
    columns = [f"{captioner}_{n}" for n in range(chosen["captions"])]
    rows = [
        {"key": key, **dict(zip(columns, written, strict=False))}
        for key, written in zip(images.keys, progress(texts, len(images), f"{captioner}, {name}"), strict=True)
    ]
    schema = pa.schema([(column, pa.string()) for column in ("key", *columns)])
    write_table(data / "caption" / captioner / f"{name}.parquet", pa.Table.from_pylist(rows, schema))
    count = sum(bool(row.get(column)) for row in rows for column in columns)
    seconds = time.monotonic() - began
    print(f"caption: {captioner}, {name}: {count} captions of {len(rows)} photographs in {seconds:.1f} s")
