"""Stage logits: cache each teacher's embeddings of K replayable views of every photograph, of taxa and of captions."""

import functools
import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from bioclip_lite.metrics import guessing
from bioclip_lite.models import embedding_checks, teachers
from bioclip_lite.models.prompt_ensemble import described, embed_prompts
from bioclip_lite.photographs import loading, views
from bioclip_lite.photographs.shards import UNLABELLED, ShardSet, shard_names, split_of
from bioclip_lite.taxa import label_space
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import logit_scale, previous_run, store, synthetic_captions
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.texts import captions, text_types
from bioclip_lite.utils import job_names, machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, replacing, write_json, write_table
from bioclip_lite.utils.progress import progress
from bioclip_lite.utils.randomness import digest, generator
from bioclip_lite.web import budget

if TYPE_CHECKING:
    from bioclip_lite.params import jobs

LEARNED = ("train", UNLABELLED)  # splits that students learn from, under several views
_LEAST, _USUAL, _MOST = 32, 64, 128  # photographs that are embedded together: at least, after that on average, at most
_ENOUGH = 8  # photographs in a shard that cannot all look the same by chance
_PAIRS = 10  # of taxa with one embedding that are named
_BATCH = 64  # captions that are scored together
_MARGIN = 0.1  # of cosine similarity, by which a caption may be nearer to another taxon than to its own
JOBS = (  # job_names; without {teacher} they are those of the first one
    *("taxa", "texts", "{shard}"),
    *("{teacher}/taxa", "{teacher}/texts", "{teacher}/{shard}"),
    *("captions/{captioner}/{shard}", "texts/{captioner}/{shard}"),
)
SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("captioner", pa.string()),
        ("n", pa.int32()),
        ("similarity", pa.float32()),
        ("rank", pa.int32()),
        ("other_taxon_id", pa.string()),
        ("other_similarity", pa.float32()),
        ("flag", pa.bool_()),
    ]
)


def run(params: "jobs.Logits", data: Path, job: str | None = None) -> None:
    """Embed the photographs of one shard (e.g. job "train-00000") or the taxa (job "taxa"); None does all.

    "second/train-00000" is the job of a further teacher, that of data/teacher/second. A logit scale is tuned by job
    "taxa", after those of split val. Job "texts" embeds the taxa in every text type. Job
    "captions/<captioner>/train-00000", after "taxa", scores the captions that a captioner wrote;
    "texts/<captioner>/train-00000" embeds them, for students that read.

    ``params`` hold the whole section for None, what ``params.jobs`` lists for one job.
    """
    torch.set_num_threads(machine.cores())
    names = _all_jobs(data) if job is None else [job]
    parsed = [job_names.parse("logits", name, JOBS) for name in names]
    for name, jobs_of_teacher in groupby(parsed, lambda job: job.fields.get("teacher", FIRST)):
        teacher = teachers.load_teacher(data / "teacher" / name)
        teacher.model.to(machine.device())
        for form, fields in jobs_of_teacher:
            if form.endswith("taxa"):
                _embed_taxa(params, data, teacher, name)
            elif form.endswith("texts"):
                _embed_texts(data, teacher, name)
            elif form.startswith("captions/"):
                _score_captions(data, teacher, fields["captioner"], fields["shard"])
            elif form.startswith("texts/"):
                _embed_captions(data, teacher, fields["captioner"], fields["shard"])
            else:
                _embed_shard(params, data, teacher, name, fields["shard"])


def _job(teacher: str, name: str) -> str:
    return name if teacher == FIRST else f"{teacher}/{name}"


def _all_jobs(data: Path) -> list[str]:
    """The jobs of each teacher in data/teacher, the first teacher's first."""
    cached = [name for name in shard_names(data) if split_of(name) != "pretrain"]
    own = [*cached, "taxa"]
    names = [name for name in shard_names(data) if split_of(name) != UNLABELLED]
    captioners = sorted(path.parent.name for path in (data / "caption").glob(f"*/{names[0]}.parquet"))
    scores = [f"captions/{captioner}/{name}" for captioner in captioners for name in names]
    present = sorted(path.parent.name for path in (data / "teacher").glob(f"*/{teachers.TEACHER_FILE}"))
    return [*own, *scores, *(f"{teacher}/{name}" for teacher in present if teacher != FIRST for name in own)]


# Taxa


def _embed_taxa(params: Any, data: Path, teacher: teachers.Teacher, teacher_name: str) -> None:
    leaves = [row for row in _taxa(data) if row["leaf"]]
    if not leaves:
        raise UserError(f"{data / 'index' / 'taxa.parquet'} lists no leaf taxon; is the index empty?")
    lit_columns = captions.lit_columns(data) if params["prompt"] == "lit" else None
    prompts = [_caption(row, params["prompt"], lit_columns or text_types.LIT_COLUMNS) for row in leaves]
    if teacher_name == FIRST:
        _check_bundle(params, teacher, prompts)
    openai = params["templates"] == "openai"
    text = embed_prompts(teacher, prompts, openai)
    maker = _maker(data, teacher_name)
    embedding_checks.check_finite(text, prompts, maker)
    _check_taxa(text, prompts, maker)
    scale = _tune(data, teacher, teacher_name, text) if params["logit_scale"] == "tuned" else teacher.logit_scale
    store.write_taxa(
        store.folder(data, teacher_name) / "taxa.safetensors",
        [row["taxon_id"] for row in leaves],
        text,
        scale,
        teacher.identity,
        described(params["prompt"], openai),
        teacher.logit_scale,
        lit_columns,
    )
    job, width = _job(teacher_name, "taxa"), text.shape[1]
    print(f"{job}: {len(leaves)} x {width} numbers, e.g. {prompts[0]!r}; logit scale {scale:.1f}")


def _check_bundle(params: "jobs.ShippedTaxa", teacher: teachers.Teacher, prompts: Sequence[str]) -> None:
    """Say how large the table of the taxa will be in a web bundle; UserError if that is too large."""
    columns = teachers.embed_texts(teacher, prompts[:2]).shape[1]
    size = budget.table_bytes(len(prompts), columns) / 1e6
    print(f"taxa: the table of {len(prompts):,} taxa in the web bundle will take {size:.2f} MB, besides their names")
    budget.check(len(prompts), columns, params["taxa_bytes"], params["over_budget"])


def _maker(data: Path, teacher_name: str) -> str:
    """The teacher of a job in messages."""
    return f"logits: the teacher in {data / 'teacher' / teacher_name}"


def _check_taxa(text: np.ndarray, prompts: Sequence[str], maker: str) -> None:
    """Name the taxa that the text tower cannot tell apart; UserError if these are most of all."""
    sets = embedding_checks.same_rows(text)
    alike = sum(map(len, sets))
    if not sets:
        return
    pairs = "; ".join(" = ".join(repr(prompts[row]) for row in rows[:2]) for rows in sets[:_PAIRS])
    found = f"{maker}: {alike} of {len(prompts)} taxa share their embedding with another one: {pairs}"
    if alike > len(prompts) / 2:
        raise UserError(
            f"{found}: its text tower does not tell most taxa apart. Take another teacher, or another logits.prompt"
        )
    print(f"{found}. No photograph can tell these apart; names that differ would (logits.prompt)")


def _taxa(data: Path) -> list[dict[str, Any]]:
    columns = ["taxon_id", *RANKS, "common_name", "supercategory", "leaf"]
    return read_table(data / "index" / "taxa.parquet", columns).to_pylist()


def _caption(row: dict[str, Any], kind: str, columns: Sequence[str]) -> str:
    path = tuple(row[rank] for rank in RANKS)
    return text_types.caption(path, row["common_name"], kind, columns, row["supercategory"])


def _tune(data: Path, teacher: teachers.Teacher, teacher_name: str, text: np.ndarray) -> float:
    """Tune the logit scale to the lowest cross entropy of the labels of split val; writes scale.json and scale.png.

    Raises UserError for a teacher that hardly knows these taxa, unless it may be weak.
    """
    began = time.monotonic()
    folder, (leaves, below) = store.folder(data, teacher_name), label_space.leaves_below(data)
    embeddings, labels = _validation(data, teacher, folder)
    scales = logit_scale.grid(teacher.logit_scale)
    matrix = machine.moved(torch.from_numpy(text))
    leaves_of = [np.asarray(below[taxon]) for taxon in labels]
    nll, top1 = logit_scale.sweep(torch.from_numpy(embeddings), matrix, leaves_of, scales)
    if not teacher.about.get("allow_weak"):
        commonest = np.bincount(np.concatenate(leaves_of)).max() / len(labels)
        guessing.refuse_weak(f"teacher {teacher.about['name']}", round(top1 * len(labels)), len(labels), commonest)
    curve = logit_scale.curve(scales, nll, teacher.logit_scale)
    curve |= {"n_images": len(labels), "n_classes": len(set(labels)), "label_space": len(leaves), "top1": top1}
    curve |= {"split": "val", "teacher": teacher.identity}
    write_json(folder / "scale.json", curve)
    with replacing(folder / "scale.png") as scratch:
        scratch.write_bytes(logit_scale.draw(curve))
    print(
        f"{_job(teacher_name, 'logit scale')}: {curve['chosen']:.1f} of {len(scales)} tried, {curve['nll']:.3f} nats; "
        f"the teacher's own, {curve['given']:.1f}, {curve['nll_given']:.3f} nats; {curve['n_images']} photographs of "
        f"split val, {curve['n_classes']} taxa, label space {curve['label_space']}, {time.monotonic() - began:.1f} s"
    )
    if curve["chosen"] in (scales[0], scales[-1]):
        print("this is the end of the grid: the teacher separates these taxa hardly at all, or without any error")
    return float(curve["chosen"])


def _validation(data: Path, teacher: teachers.Teacher, folder: Path) -> tuple[np.ndarray, list[str]]:
    """(cached embeddings, taxa) of the photographs of split val, at most logit_scale.PHOTOGRAPHS, drawn by key."""
    photographs: list[tuple[int, np.ndarray, str]] = []
    for name in shard_names(data, "val"):
        shard, images = store.read_shard(folder / f"{name}.safetensors"), ShardSet.of(data / "shard" / f"{name}.tar")
        if shard.identity["teacher"] != teacher.identity or shard.keys != images.keys:
            raise UserError(f"{shard.path} is of another teacher or of other photographs; run job {name} again")
        numbers = (digest("logits", "scale", key) for key in shard.keys)
        photographs += zip(numbers, shard.target(slice(None), 0), images.taxon_ids, strict=True)
        photographs = sorted(photographs, key=lambda photograph: photograph[0])[: logit_scale.PHOTOGRAPHS]
    if not photographs:
        raise UserError("logits.logit_scale is tuned, but split val has no photographs; set it to given")
    return np.stack([embedding for _, embedding, _ in photographs]), [taxon for _, _, taxon in photographs]


def _embed_texts(data: Path, teacher: teachers.Teacher, teacher_name: str) -> None:
    """The teacher's embeddings of all taxa, inner nodes too, in all text types: float16 (T, C', D)."""
    taxa, columns = _taxa(data), captions.lit_columns(data)
    captions_of = [[_caption(row, kind, columns) for row in taxa] for kind in text_types.TYPES]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for row in captions_of for text in row))}
    embedded = teachers.embed_texts(teacher, list(numbers)).astype(np.float16)
    embedding_checks.check_finite(embedded, list(numbers), _maker(data, teacher_name))
    text = embedded[[[numbers[text] for text in row] for row in captions_of]]
    path = store.folder(data, teacher_name) / "texts.safetensors"
    store.write_texts(path, text_types.TYPES, [row["taxon_id"] for row in taxa], text, teacher.identity)
    kinds, count, width = text.shape
    print(f"{_job(teacher_name, 'texts')}: {kinds} types x {count} taxa, {len(numbers)} distinct, x {width} numbers")


# Captions


def _score_captions(data: Path, teacher: teachers.Teacher, captioner: str, name: str) -> None:
    """Write the similarity of each caption to the taxon of its photograph and to others, as the teacher embeds them.

    Columns: ``similarity``, the cosine to the own taxon, of an inner node to the nearest leaf under it; ``rank``, 1 if
    no other leaf is nearer; ``other_taxon_id``, the nearest of the others, and ``other_similarity``; ``flag``, whether
    the caption contradicts the label: another taxon is nearer by more than a margin. A caption that names no taxon is
    about as near to many, and not flagged. Empty captions have no row.
    """
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    if taxa.teacher != teacher.identity:
        raise UserError(f"{data / 'logits'}/taxa.safetensors was embedded by another teacher; run job taxa again")
    _, below = label_space.leaves_below(data)
    images = ShardSet.of(data / "shard" / f"{name}.tar")
    table = read_table(data / "caption" / captioner / f"{name}.parquet")
    if table["key"].to_pylist() != images.keys:
        raise UserError(
            f"{data / 'caption' / captioner / name}.parquet lists other photographs; run stage caption again"
        )
    rows: list[dict[str, Any]] = []
    for start in progress(range(0, len(images), _BATCH), -(-len(images) // _BATCH), f"{captioner}, {name}"):
        written = [
            (i, n, text)
            for i, row in enumerate(table.slice(start, _BATCH).drop(["key"]).to_pylist(), start)
            for n, text in enumerate(row.values())
            if text
        ]
        if not written:
            continue
        similarity = teachers.embed_texts(teacher, [text for _, _, text in written]) @ taxa.text.T
        for (i, n, _), to_leaf in zip(written, similarity, strict=True):
            own = to_leaf[below[images.taxon_ids[i]]].max()
            others = to_leaf.copy()
            others[below[images.taxon_ids[i]]] = -np.inf
            best = int(others.argmax())
            rows.append(
                {
                    **{"key": images.keys[i], "captioner": captioner, "n": n},
                    **{"similarity": float(own), "rank": 1 + int((others > own).sum())},
                    **{"other_taxon_id": taxa.taxon_ids[best], "other_similarity": float(others[best])},
                    "flag": bool(others[best] > own + _MARGIN),
                }
            )
    write_table(data / "logits" / "captions" / captioner / f"{name}.parquet", pa.Table.from_pylist(rows, SCORES))
    flagged = sum(row["flag"] for row in rows)
    print(f"{captioner}, {name}: {flagged} of {len(rows)} captions contradict the label of their photograph")


def _embed_captions(data: Path, teacher: teachers.Teacher, captioner: str, name: str) -> None:
    """The first teacher's embeddings of the captions of one shard, with the captions."""
    table = read_table(data / "caption" / captioner / f"{name}.parquet")
    keys = table["key"].to_pylist()
    columns = [table[column].to_pylist() for column in table.column_names if column != "key"]
    texts = [[text or "" for text in row] for row in zip(*columns, strict=True)]
    # Row 0 is that of an empty caption.
    numbers = {text: number for number, text in enumerate(dict.fromkeys(["", *(t for row in texts for t in row)]))}
    embedded = teachers.embed_texts(teacher, list(numbers))
    embedding_checks.check_finite(embedded, list(numbers), _maker(data, FIRST))
    embedded[0] = 0
    rows = np.array([[numbers[text] for text in row] for row in texts], np.int64).reshape(len(keys), len(columns))
    path = synthetic_captions.path(data, captioner, name)
    synthetic_captions.write(path, keys, texts, embedded[rows], teacher.identity)
    print(f"texts of {captioner}, {name}: {len(keys)} photographs x {len(columns)}, {len(numbers) - 1} distinct")


# Photographs


def _embed_shard(
    params: "jobs.CachedViews", data: Path, teacher: teachers.Teacher, teacher_name: str, name: str
) -> None:
    """Cache one shard, view by view. Batches that the cache of an earlier run has are taken from there.

    A batch is embedded as a whole or not at all, because the last bits of an embedding depend on the size of its batch.
    So the file has the same bytes whatever the earlier run had.
    """
    began = time.monotonic()
    images = ShardSet.of(data / "shard" / f"{name}.tar")
    count = params["views"] if split_of(name) in LEARNED else 1
    digests = np.array([store.image_digest(images.jpeg(i)) for i in range(len(images))], np.uint64)
    rows = np.array([_rows(params, key, count) for key in images.keys], np.float32)
    rows = rows.reshape(len(images), count, views.columns(params["operations"]))
    identity = {
        "teacher": teacher.identity,
        "preprocess": json.dumps(teacher.preprocess),
        "views": views.VERSION,
        "precision": params["precision"],
    }
    format_ = machine.embedding_format(params["forward_precision"])
    if format_ != "float32":
        identity["forward_precision"] = format_
    path = store.folder(data, teacher_name) / f"{name}.safetensors"
    batches = [(where, k) for k in range(count) for where in _batches(images.keys)]
    reusable = _earlier(path, params, identity)
    new = [batch for batch in batches if _content(digests, rows, *batch) not in reusable]
    plan = [[(i, rows[i, k]) for i in range(where.start, where.stop)] for where, k in new]
    embedded = _embed(teacher, loading.Views(images, teacher.preprocess).batches(plan), format_)
    done = sum(map(len, plan))
    job = _job(teacher_name, name)
    answers = iter(progress(embedded, len(new), f"{job}, batches of views", done // max(1, len(new))))
    width = teachers.embed_texts(teacher, [""]).shape[1]
    blank = store.encode(np.empty((0, count, width), np.float32), params["precision"])
    encoded = {part: np.empty((len(images), *none.shape[1:]), none.dtype) for part, none in blank.items()}
    maker = f"{_maker(data, teacher_name)}, shard {name}"
    maker += "" if format_ == "float32" else f", seen in {format_}"
    for where, k in batches:
        part_of = reusable.get(_content(digests, rows, where, k))
        if part_of is None:
            part_of = store.encode(_checked(next(answers), images.keys[where], maker), params["precision"])
        for part, values in part_of.items():
            encoded[part][where, k] = values
    if len(images) >= _ENOUGH:
        plain = {part: values[:, 0] for part, values in encoded.items()}
        embedding_checks.check_varied(store.decode(**plain), "photographs", maker)
    store.write_shard(path, images.keys, digests, rows, encoded, identity)
    size = path.stat().st_size / 1e6
    print(
        f"{job}: {len(images)} photographs x {count} views x {width} numbers, {size:.1f} MB; "
        f"{done} views embedded, {len(images) * count - done} taken over, {time.monotonic() - began:.1f} s"
    )


def _checked(embeddings: np.ndarray, keys: Sequence[str], maker: str) -> np.ndarray:
    embedding_checks.check_finite(embeddings, keys, maker)
    return embeddings


def _rows(params: "jobs.CachedViews", key: str, count: int) -> np.ndarray:
    """Views of one photograph, the plain one first: float32 (count, P)."""
    drawn = [views.draw(generator(params["seed"], "logits", key, k), params) for k in range(1, count)]
    return np.stack([views.plain_view(params["operations"]), *drawn])


def _batches(keys: Sequence[str]) -> list[slice]:
    """Slices of neighbours that are embedded together.

    A batch ends at a key, not at a number: one photograph more changes its own batch, and hardly ever those that
    follow.
    """
    batches, start = [], 0
    for stop, key in enumerate(keys, 1):
        size = stop - start
        if size == _MOST or stop == len(keys) or (size >= _LEAST and digest("logits", "batch", key) % _USUAL == 0):
            batches.append(slice(start, stop))
            start = stop
    return batches


def _content(digests: np.ndarray, rows: np.ndarray, where: slice, k: int) -> tuple[bytes, bytes]:
    """All that the embeddings of a batch depend on, except the identity of the cache."""
    return digests[where].tobytes(), rows[where, k].tobytes()


def _earlier(
    path: Path, params: "jobs.CachedViews", identity: dict[str, str]
) -> dict[tuple[bytes, bytes], dict[str, np.ndarray]]:
    """The encoded batches of the file that was at ``path`` in the last run, by their content."""
    content = previous_run.earlier(path, params)
    old = store.read_shard(content) if content else None
    if old is None or old.identity != identity:
        return {}
    parts = {"embeddings": old.embeddings} | ({} if old.scales is None else {"scales": old.scales})
    return {
        _content(old.images, old.views, where, k): {name: part[where, k] for name, part in parts.items()}
        for where in _batches(old.keys)
        for k in range(old.views.shape[1])
    }


def _embed(teacher: teachers.Teacher, batches: Iterator[torch.Tensor], precision: str) -> Iterator[np.ndarray]:
    """Embeddings of each batch; while a GPU computes them, the next batch is on its way."""
    embed = machine.within_memory(functools.partial(teachers.embed_images, teacher.model))
    for pixels in batches:
        with machine.embedding_in(precision):
            embedded = embed(pixels)
        yield embedded.cpu().numpy()
