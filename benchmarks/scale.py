"""Measure how training and evaluation grow with taxa and photographs: ``python benchmarks/scale.py``.

Runs the real code on synthetic embeddings, answers and shards, each measurement in a process of its own with one
thread, and writes CPU seconds, peak memory and bytes to benchmarks/scale.md. ``--taxa`` and ``--photographs`` say how
far.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bioclip_lite.evaluation import predictions
from bioclip_lite.metrics import backoff, bootstrap
from bioclip_lite.metrics.scoring import judge_columns, reduce_logits, tree_of
from bioclip_lite.metrics.summary import summarise
from bioclip_lite.metrics.temperature import best_temperature, evidence, join
from bioclip_lite.photographs import members
from bioclip_lite.photographs.shards import ShardSet, write_shard
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.training import shuffling
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.files import write_json, write_table

OUTPUT = Path(__file__).with_suffix(".md")
TAXA, PHOTOGRAPHS = (1_000, 10_000, 50_000, 450_000), (10_000, 100_000, 1_000_000)
WIDTH, BATCH, LEARNED, SHARD, RESAMPLES = 512, 64, 128, 10_000, 1000
BUFFER = 100_000
COLD_SHARDS, COLD_SHARD, COLD_BYTES, COLD_READ, COLD_WINDOW = 40, 2500, 25_000, 20_000, 8
ORDER = ("shards_touched", "shards_touched_at_once", "moved", "unlike")
COUNTED = ("size", "parts_size", *ORDER)  # not timed
UNDER = (150_000, 50_000, 10_000, 2_000, 200, 9, 1)  # leaves of a node at each rank
# CPU milliseconds and seconds of the code before (00d6606), on the same kind of machine: per photograph, per 10,000.
BEFORE = {
    **{"reduce": (0.45, 5.4, 23.5, 270), "temperature": (29, 202, 1108, 11_004)},
    "start": (0.47, 4.62, 46.1),  # of c21389b, on the machine of the table
}
NO_OP = 28.7  # CPU seconds on AMD EPYC, beside other work


def tree(classes: int) -> np.ndarray:
    """``node_of_leaf``, int [7, classes]."""
    return np.stack([np.arange(classes) // under for under in UNDER])


def answers(photographs: int, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(logits float32 [BATCH, classes], leaves of the labels), batch by batch, from embeddings and a table of texts."""
    random = np.random.default_rng(0)
    text = random.standard_normal((classes, WIDTH), dtype=np.float32) / np.float32(math.sqrt(WIDTH))
    for _ in range(0, photographs, BATCH):
        truth = random.integers(classes, size=BATCH)
        seen = 0.3 * text[truth] + random.standard_normal((BATCH, WIDTH), dtype=np.float32) / np.float32(22)
        yield 50 * (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ text.T, truth


# ---- what is measured, as the table names it


def reduce(classes: int) -> float:
    """Milliseconds a photograph: product with the table, and reduction to columns."""
    nodes, batches = tree(classes), 4
    groups = tree_of(nodes)
    blocks = answers((1 + batches) * BATCH, classes)
    next(blocks)  # with which the table is made up
    start = time.process_time()
    for logits, truth in blocks:
        reduce_logits(logits, truth, nodes[:, truth].T, groups, 1.3)
    return 1000 * (time.process_time() - start) / (batches * BATCH)


def temperature(classes: int) -> float:
    """Seconds for 10,000 photographs, from embeddings to the number."""
    nodes, photographs = tree(classes), 10_000 if classes <= 10_000 else 1024
    groups = tree_of(nodes).nodes
    blocks = answers(photographs + BATCH, classes)
    next(blocks)  # with which the table is made up
    start = time.process_time()
    found = join([evidence(logits, nodes[:, truth].T, groups) for logits, truth in blocks])
    best_temperature(found)
    return 10_000 * (time.process_time() - start) / len(found.values)


def losses(classes: int) -> float:
    """Milliseconds a photograph: loss and gradients of affinity, cosine and labels, in blocks of taxa."""
    return _losses(classes, at_once=False)


def losses_at_once(classes: int) -> float:
    """As ``losses``, with all logits of a batch at once."""
    return _losses(classes, at_once=True)


def _losses(classes: int, at_once: bool) -> float:
    import torch

    from bioclip_lite.training import losses, streamed

    random = torch.Generator().manual_seed(0)
    text = torch.randn(classes, WIDTH, generator=random)
    text /= text.norm(dim=1, keepdim=True)
    truth = torch.randint(classes, (LEARNED, 1), generator=random)
    target = text[truth[:, 0]] + 0.04 * torch.randn(LEARNED, WIDTH, generator=random)
    embedding = (target + 0.04 * torch.randn(LEARNED, WIDTH, generator=random)).requires_grad_()
    start = time.process_time()
    answers = losses.PhotographAnswers(
        embedding=embedding,
        logits=losses.taxon_logits(embedding, text, 50.0) if at_once else streamed.logits(embedding, text, 50.0),
        targets=[target],
        texts=[text],
        logit_scales=[50.0],
        temperature=1.0,
        nodes=torch.zeros(0, classes, dtype=torch.int64),
        node_counts=[],
        ranges=truth + torch.tensor([0, 1]),
    )
    streamed.weighted_sum(answers, losses.Weights(labels=1.0)).backward()
    return 1000 * (time.process_time() - start) / LEARNED


def size(classes: int) -> float:
    """Bytes on disk of a photograph: columns, embedding and key."""
    nodes = tree(classes)
    logits, truth = next(answers(BATCH, classes))
    columns = reduce_logits(logits, truth, nodes[:, truth].T, tree_of(nodes), 1.3)
    columns["embeddings"] = np.zeros((BATCH, WIDTH), np.float16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.safetensors"
        predictions.write(path, [f"photo-{n:012d}" for n in range(BATCH)], "0" * 64, columns)
        return path.stat().st_size / BATCH


def made_up(photographs: int, classes: int = 10_000) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(columns of ``reduce_logits``, leaves of the labels, ``node_of_leaf``) of a model that is right in 70 %."""
    random, nodes = np.random.default_rng(1), tree(classes)
    truth = random.integers(classes, size=photographs)
    best = np.where(random.random(photographs) < 0.7, truth, random.integers(classes, size=photographs))
    sure = random.beta(2, 1, photographs)
    share = np.stack([sure ** (1 / (7 - rank)) for rank in range(7)], axis=1)
    node = nodes[:, best].T.astype(np.int32)
    return {
        "top": np.stack([(best + step) % classes for step in range(5)], axis=1).astype(np.int32),
        "place": np.where(best == truth, 0, 3).astype(np.int32),
        **{"share": share, "best": node, "node": node},
        **dict.fromkeys(("probability", "probability_raw", "nll", "nll_raw"), sure),
    }, truth, nodes  # fmt: skip


def merge(photographs: int) -> float:
    """Seconds to read and judge the answers of one variant, shard by shard."""
    columns, truth, nodes = made_up(SHARD)
    with tempfile.TemporaryDirectory() as name:
        folder, shards = Path(name), [f"test-{n:05d}" for n in range(photographs // SHARD)]
        keys = [f"photo-{n:012d}" for n in range(SHARD)]
        for shard in shards:
            predictions.write(folder / f"student/{shard}.safetensors", keys, "", columns)
        found = predictions.Predictions(
            folder, [folder / f"student/{shard}.safetensors" for shard in shards], {}, {}, "", False
        )
        start = time.process_time()
        for _, of_shard in found.columns():
            judge_columns(of_shard, truth, nodes[:, truth].T, nodes)
        return time.process_time() - start


def compare(photographs: int) -> float:
    """Seconds for the figures of one of two variants, with 1,000 resamples."""
    columns, truth, nodes = made_up(photographs)
    scores = judge_columns(columns, truth, nodes[:, truth].T, nodes)
    group, labels = np.arange(photographs) // 2, nodes[:, truth].T
    strata: dict[tuple[str, ...], np.ndarray] = {("seen",): truth % 2 == 0, ("unseen",): truth % 2 == 1}
    thresholds = dict.fromkeys(RANKS, 0.95)
    bootstrap.draws(int(group.max()) + 1, RESAMPLES, 0, "bootstrap")  # once for all variants
    start = time.process_time()
    summarise({"teacher": scores, "student": scores}, labels, group, strata, ("teacher",), RESAMPLES, 0)
    for _ in range(2):
        backoff.summarise(scores, thresholds, labels, nodes, group, strata, RESAMPLES, 0)
        backoff.area(scores, labels, nodes, group, RESAMPLES, 0)
    return (time.process_time() - start) / 2


def start(photographs: int) -> float:
    """Seconds from the files to the first batch that the workers of a training are asked for."""
    from bioclip_lite.photographs.preprocess import preprocessing
    from bioclip_lite.taxa import label_space
    from bioclip_lite.teacher_cache.reader import CachedSplit
    from bioclip_lite.training.cached_batches import CachedBatches

    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        made_by_another(write_data, data, photographs)
        label_space.leaves_below(data)  # what grows with taxa is not counted here
        begun = time.process_time()
        split, names = CachedSplit(data, "train"), (0, "distill")
        batches = CachedBatches(data, split, preprocessing(32), 4096, 100_000, names, labels=True)
        next(iter(batches.asked(0, 0)))
        return time.process_time() - begun


def write_data(data: Path, photographs: int) -> None:
    """Shards of photographs without content, of 1,000 taxa, and their teacher cache."""
    taxa = [f"{n:016x}" for n in range(1000)]
    ranks = {rank: [f"{rank} {n}" for n in range(1000)] for rank in RANKS}
    write_table(data / "index" / "taxa.parquet", pa.table({"taxon_id": taxa, **ranks, "leaf": [True] * 1000}))
    sizes, identity = {}, {"teacher": "", "views": ""}
    tensors = store.encode(np.zeros((SHARD, 1, 2), np.float32), "float16")
    for number in range(photographs // SHARD):
        shard, keys = f"train-{number:05d}", [f"photo-{number:05d}-{n:08d}" for n in range(SHARD)]
        tar = data / "shard" / f"{shard}.tar"
        descriptions = ({"taxon_id": taxa[n % 1000], "ranks": [f"rank {n}"] * 7} for n in range(SHARD))
        sizes[tar.name] = write_shard(tar, ((key, b"", one) for key, one in zip(keys, descriptions, strict=True)))
        members.write(tar)
        digests, views = np.zeros(SHARD, np.uint64), np.zeros((SHARD, 1, 6), np.float32)
        store.write_shard(data / "logits" / f"{shard}.safetensors", keys, digests, views, tensors, identity)
    write_json(data / "shard" / "sizes.json", sizes)
    store.write_taxa(data / "logits" / "taxa.safetensors", taxa, np.ones((1000, 2)), 1.0, "", "sci")


def manifests(photographs: int) -> float:
    """Seconds for the manifests of all shards."""
    from bioclip_lite.stages import shard

    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        made_by_another(write_samples, data, photographs)
        begun = time.process_time()
        shard.run({"counts": {"train": max(1, photographs // SHARD)}, "max_side": None}, data, "manifests")
        return time.process_time() - begun


def write_samples(data: Path, photographs: int) -> None:
    """data/index/samples.parquet, three photographs an observation."""
    path, source = data / "index" / "samples.parquet", json.dumps({"source": "folder"})
    path.parent.mkdir()
    writer: pq.ParquetWriter | None = None
    for start in range(0, photographs, SHARD):
        rows = range(start, min(start + SHARD, photographs))
        keys, same = [f"photo-{n:012d}" for n in rows], np.full(len(rows), 400, np.int32)
        taxon, ranks = [n % 1000 for n in rows], {rank: [f"{rank} {n % 1000}" for n in rows] for rank in RANKS}
        names = pa.array([[("de", f"Art {n}")] for n in taxon], pa.map_(pa.string(), pa.string()))
        table = pa.table(
            {
                **{"key": keys, "locator": [f"{key}.jpg" for key in keys], "md5": [f"{n:032x}" for n in rows]},
                **{"width": same, "height": same, "clean": same > 0, "taxon_id": [f"{n:016x}" for n in taxon]},
                **{"common_name": [f"species {n}" for n in taxon], "common_names": names},
                **{"group": [f"observation {n // 3}" for n in rows], "licence": ["cc0"] * len(rows)},
                **{"attribution": [f"person {n % 99}" for n in rows], "supercategory": ["Plants"] * len(rows)},
                **{"caption": pa.nulls(len(rows), pa.string()), **ranks, "split": ["train"] * len(rows)},
            }
        ).replace_schema_metadata({"source": source})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer
    writer.close()


def listing(photographs: int) -> float:
    """Seconds in which the index lists what each part of a table holds."""
    return seconds_of("manifest", photographs, write_rows_of_a_table)


def merging(photographs: int) -> float:
    """Seconds in which the index writes its tables by what the parts have read."""
    return seconds_of("tables", photographs, write_parts)


def seconds_of(job: str, photographs: int, write: Callable[[Path, int], None]) -> float:
    """Seconds of a job of stage index, where ``write`` has written what it reads."""
    from bioclip_lite.stages import index

    with tempfile.TemporaryDirectory() as name:
        made_by_another(write, Path(name), photographs)
        begun = time.process_time()
        index.run(index_section(Path(name), photographs), Path(name), job)
        return time.process_time() - begun


def parts_size(photographs: int) -> float:
    """Bytes of a photograph in the manifests and in what was read."""
    with tempfile.TemporaryDirectory() as name:
        write_parts(Path(name), photographs)
        return sum(path.stat().st_size for path in Path(name, "index").rglob("*.parquet")) / photographs


def index_section(data: Path, photographs: int) -> Any:
    """Parameters for ``write_rows_of_a_table``."""
    count = max(2, photographs // 100_000)
    return {**defaults()["index"], "source": "csv", "path": str(data / "table.csv"), "parts": count}


def write_rows_of_a_table(data: Path, photographs: int) -> None:
    """A table of photographs that lie nowhere, of 1,000 taxa, three of them an observation."""
    with (data / "table.csv").open("w", encoding="utf-8") as file:
        file.write("file,kingdom,family,genus,species,observation,licence,source\n")
        for n in range(photographs):
            word = "".join("abcdefghij"[int(digit)] for digit in f"{n // 3 % 1000:03d}")
            named = f"Animalia,Examplidae,Exemplum,{word}ensis"
            file.write(f"{n // 1000:05d}/{n:08d}.jpg,{named},visit-{n // 3},CC0,person {n % 99}\n")


def write_parts(data: Path, photographs: int) -> None:
    """Write what jobs of parts would have found: sound photographs, no two of which look alike."""
    from bioclip_lite.indexing import batches
    from bioclip_lite.stages import index

    write_rows_of_a_table(data, photographs)
    index.run(index_section(data, photographs), data, "manifest")
    random = np.random.default_rng(0)
    for manifest in sorted((data / "index/manifest").iterdir()):
        listed = pq.read_table(manifest)
        many = len(listed)
        hashes = random.integers(-(2**63), 2**63, (2, many))
        columns = {
            **{"reason": pa.nulls(many), "detail": pa.nulls(many), "md5": [random.bytes(16) for _ in range(many)]},
            **{"width": [400] * many, "height": [300] * many, "clean": [True] * many, "truncated": [False] * many},
            **{"phash": hashes[0], "dhash": hashes[1]},
        }
        found = [pa.array(columns[column], kind) for column, kind in batches.FOUND]
        schema = pa.schema([listed.schema.field("locator"), *batches.FOUND])
        arrays = [listed["locator"].combine_chunks(), *found]
        write_table(data / "index/read" / manifest.name, pa.Table.from_arrays(arrays, schema=schema))


def loose_files(photographs: int) -> float:
    """Seconds that a start takes to find out that no photograph of a folder has changed."""
    from bioclip_lite.engines.hashes import Hashes

    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        made_by_another(write_folder, Path("photographs"), photographs)
        begun = time.process_time()
        assert Hashes(ask_dvc=False)["photographs"]
        seconds = time.process_time() - begun
        os.chdir("/")
        return seconds


def write_folder(folder: Path, photographs: int) -> None:
    """A folder of loose files, 1,000 in each of its folders, that an earlier start has hashed."""
    from bioclip_lite.engines.hashes import Hashes

    for number in range(photographs):
        path = folder / f"{number // 1000:05d}" / f"{number:08d}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    hashes = Hashes(ask_dvc=False)
    assert hashes["photographs"]
    hashes.save()


def made_by_another(make: Callable[[Path, int], None], path: Path, photographs: int) -> None:
    """Make what is measured in a process of its own, whose memory does not count."""
    maker = multiprocessing.get_context("fork").Process(target=make, args=(path, photographs))
    maker.start()
    maker.join()


def order(photographs: int) -> float:
    """Seconds for the order of an epoch."""
    lengths = [SHARD] * max(1, photographs // SHARD)
    begun = time.process_time()
    for _ in shuffling.batches(lengths, 4096, BUFFER, 0, "distill", "order", 0):
        pass
    return time.process_time() - begun


def shards_touched(photographs: int) -> float:
    """Shards that 1,000 photographs in a row come from, in the mean."""
    return touched(photographs, BUFFER)


def shards_touched_at_once(photographs: int) -> float:
    """As ``shards_touched``, with all photographs mixed."""
    return touched(photographs, photographs)


def touched(photographs: int, buffer: int) -> float:
    rows = shuffled(photographs, buffer, 0)
    return float(
        np.mean([len(np.unique(some // SHARD)) for some in rows[: len(rows) // 1000 * 1000].reshape(-1, 1000)])
    )


def shuffled(photographs: int, buffer: int, epoch: int) -> np.ndarray:
    lengths = [SHARD] * max(1, photographs // SHARD)
    return np.concatenate([*shuffling.batches(lengths, 1000, buffer, 0, "distill", "order", epoch)])


def moved(photographs: int) -> float:
    """Measure how far a photograph moves from its place of the epoch before, as a share of the epoch, in the mean."""
    first, second = (np.argsort(shuffled(photographs, BUFFER, epoch)) for epoch in range(2))
    return float(np.abs(first - second).mean() / photographs)


def unlike(photographs: int) -> float:
    """Distance of the taxa of 4,096 photographs in a row from those of all, in the mean, to that of a permutation."""
    taxon = np.random.default_rng(0).integers(1000, size=-(-photographs // 3)).repeat(3)  # three an observation

    def distance(buffer: int) -> float:
        rows = shuffled(photographs, buffer, 0)
        share = np.bincount(taxon, minlength=1000) / photographs
        some = taxon[rows[: len(rows) // 4096 * 4096]].reshape(-1, 4096)
        return float(np.mean([np.abs(np.bincount(one, minlength=1000) / 4096 - share).sum() for one in some]))

    return distance(BUFFER) / distance(photographs)


def waits() -> list[str]:
    """The lines of the table of waiting times, by the order in which photographs are read."""
    lengths, names = [COLD_SHARD] * COLD_SHARDS, (0, "order")
    with tempfile.TemporaryDirectory() as name:
        tars = [Path(name) / f"train-{number:05d}.tar" for number in range(COLD_SHARDS)]
        for number, tar in enumerate(tars):
            content = np.random.default_rng(number).bytes(COLD_BYTES)
            samples = ((f"{number:05d}-{n:06d}", content, {"taxon_id": "t"}) for n in range(COLD_SHARD))
            write_shard(tar, samples)
            members.write(tar)
        images = ShardSet.of(*tars)
        lines = ["| order | ms a photograph | longest |", "|---|---|---|"]
        for what, buffer, files in (
            ("all at random", sum(lengths), []),
            ("windows", COLD_SHARD * COLD_WINDOW, []),
            ("windows, read ahead", COLD_SHARD * COLD_WINDOW, [[tar] for tar in tars]),
        ):
            for tar in tars:
                forget(tar)
            waited = []
            plan = shuffling.batches(lengths, 100, buffer, *names, files=files)
            for i in itertools.chain.from_iterable(itertools.islice(plan, COLD_READ // 100)):
                time.sleep(0.001)
                begun = time.perf_counter()
                images.jpeg(int(i))
                waited.append(1000 * (time.perf_counter() - begun))
            lines.append(f"| {what} | {np.mean(waited):.3f} | {max(waited):.0f} |")
            print(lines[-1], flush=True)
        return lines


def forget(path: Path) -> None:
    """Take a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


MEASURED: dict[str, tuple[str, Callable[[int], float]]] = {
    "reduce": ("reduce, ms a photograph", reduce),
    "losses": ("loss and gradients in blocks, ms a photograph", losses),
    "losses_at_once": ("loss and gradients at once, ms a photograph", losses_at_once),
    "temperature": ("temperature, s for 10,000 photographs", temperature),
    "size": ("bytes of a photograph on disk", size),
    "merge": ("read and judge one variant, s", merge),
    "compare": ("figures of one variant, 1,000 resamples, s", compare),
    "start": ("start of a training, s", start),
    "manifests": ("manifests of the shards, s", manifests),
    "listing": ("list the parts of the index, s", listing),
    "merging": ("write its tables by what the parts have read, s", merging),
    "parts_size": ("bytes of a photograph in the parts", parts_size),
    "loose_files": ("a start with loose photographs, s", loose_files),
    "order": ("order of an epoch, s", order),
    "shards_touched": ("shards that 1,000 photographs come from", shards_touched),
    "shards_touched_at_once": ("the same, all photographs mixed", shards_touched_at_once),
    "moved": ("move of a photograph between two epochs, share of the epoch", moved),
    "unlike": ("distance of the taxa in a batch from those of all, that of a permutation being 1", unlike),
}


def sections(taxa: int, photographs: int) -> dict[str, tuple[str, Callable[[], list[str]]]]:
    """Hold, for each part of the page, the text above its table and the table, measured as far as this."""
    numbers = [n for n in PHOTOGRAPHS if n <= photographs]
    return {
        "taxa": (
            f"`python benchmarks/scale.py`: {processor()}, one thread, CPU time and peak memory of a process. "
            f"Embeddings of {WIDTH} numbers; {BATCH} photographs at a time, {LEARNED} in a batch of the losses, whose "
            "processes have 600 MB without work. In brackets, CPU time of the code before (00d6606), cited from "
            "measurements on a machine of the same kind. The last column is the exponent from the first to the last.",
            lambda: table(
                "taxa",
                [n for n in TAXA if n <= taxa],
                ("losses", "losses_at_once", "reduce", "temperature", "size"),
            ),
        ),
        "evaluation": ("10,000 taxa:", lambda: table("photographs", numbers, ("merge", "compare"))),
        "start": (
            f"1,000 taxa, shards of {SHARD:,}; until the first batch is asked for. PyTorch takes most of the memory:",
            lambda: table("photographs", numbers, ("start",)),
        ),
        "files": (
            f"Shards of {SHARD:,}, and a folder of loose photographs of which none has changed:",
            lambda: table("photographs", numbers, ("manifests", "loose_files")),
        ),
        "order": (
            f"The order of an epoch, in windows of {BUFFER:,} photographs of shards of {SHARD:,}:",
            lambda: table("photographs", numbers, ("order", *ORDER)),
        ),
        "reading": (
            f"Time until a photograph of {COLD_BYTES:,} bytes is read, 1 ms after the last one, where the page cache "
            f"is empty at first: the first {COLD_READ:,} of {COLD_SHARDS * COLD_SHARD:,} in {COLD_SHARDS} tars, in "
            f"windows of {COLD_WINDOW} tars. Elapsed time, on the disk of this machine beside other work:",
            waits,
        ),
        "index": (
            "The jobs of stage index beside those that read a part each: a table of photographs, three an observation, "
            "no two of which look alike, in parts of at most 100,000:",
            lambda: table("photographs", numbers, ("listing", "merging", "parts_size")),
        ),
        "graph": (
            "A run that has nothing to do, CPU seconds, cited from a measurement on the tree of "
            "[the engines' benchmark](engines.md). A job is for one shard. Several shards in one job were not built: "
            "the graph takes less than the 45 s that were the aim, and since Snakemake repeats a job as a whole, one "
            "changed photograph would make all shards of its job again, and what follows from each:",
            lambda: ["| 10,000 shards | s |", "|---|---|", f"| `snakemake -n evaluate`, without sync | {NO_OP} |"],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taxa", type=int, default=TAXA[-1], help="the most taxa")
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS[-1], help="the most photographs")
    parser.add_argument("--part", action="append", help="a part of the page to measure again; the others stay")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with redirect_stdout(sys.stderr):
            measured = measure(options.one[0], int(options.one[1]))
        print(*measured)
        return
    before = OUTPUT.read_text().rstrip().split("\n\n")[2::2] if options.part else []
    blocks = ["# Growth of training and evaluation"]
    for number, (name, (heading, measured_again)) in enumerate(sections(options.taxa, options.photographs).items()):
        again = not options.part or name in options.part
        blocks += [heading, "\n".join(measured_again()) if again else before[number]]
    OUTPUT.write_text("\n\n".join(blocks) + "\n")


def table(what: str, steps: list[int], names: tuple[str, ...]) -> list[str]:
    lines = [
        f"| {what} | " + " | ".join(f"{step:,}" for step in steps) + " | exponent |",
        "|---" * (len(steps) + 2) + "|",
    ]
    for name in names:
        values, cells = [], []
        for step in steps:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--one", name, str(step)]
            found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            value, memory = map(float, found.stdout.split())
            before = f" ({BEFORE[name][steps.index(step)]:,})" if name in BEFORE else ""
            values.append(value)
            cells.append(f"{value:,.4g}" if name in COUNTED else f"{value:,.3g}{before}, {memory:,.0f} MB")
            print(name, step, cells[-1], flush=True)
        exponent = math.log(values[-1] / values[0]) / math.log(steps[-1] / steps[0]) if len(steps) > 1 else math.nan
        lines.append(f"| {MEASURED[name][0]} | " + " | ".join(cells) + f" | {exponent:.2f} |")
    return lines


def measure(name: str, step: int) -> tuple[float, float]:
    """(CPU time or bytes; peak memory in MB, of which a process without work has 100)."""
    value = MEASURED[name][1](step)
    return value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
