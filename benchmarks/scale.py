"""Measure how training and evaluation grow with taxa and photographs: ``python benchmarks/scale.py``.

Runs the real code on synthetic embeddings, answers and shards, each measurement in a process of its own with one
thread, and writes CPU seconds, peak memory and bytes to benchmarks/scale.md. ``--taxa`` and ``--photographs`` say how
far.
"""

import argparse
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bioclip_lite.evaluation import predictions
from bioclip_lite.metrics import backoff, bootstrap
from bioclip_lite.metrics.scoring import judge_columns, reduce_logits, tree_of
from bioclip_lite.metrics.summary import summarise
from bioclip_lite.metrics.temperature import best_temperature, evidence, join
from bioclip_lite.photographs import members
from bioclip_lite.photographs.shards import write_shard
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.files import write_json, write_table

OUTPUT = Path(__file__).with_suffix(".md")
TAXA, PHOTOGRAPHS = (1_000, 10_000, 50_000, 450_000), (10_000, 100_000, 1_000_000)
WIDTH, BATCH, LEARNED, SHARD, RESAMPLES = 512, 64, 128, 10_000, 1000
UNDER = (150_000, 50_000, 10_000, 2_000, 200, 9, 1)  # leaves of a node at each rank
# CPU milliseconds and seconds of the code before (00d6606), on the same kind of machine: per photograph, per 10,000.
BEFORE = {
    **{"reduce": (0.45, 5.4, 23.5, 270), "temperature": (29, 202, 1108, 11_004)},
    "start": (0.47, 4.62, 46.1),  # of c21389b, on the machine of the table
}


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
        maker = multiprocessing.get_context("fork").Process(target=write_data, args=(data, photographs))
        maker.start()  # a process of its own, whose memory does not count
        maker.join()
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


MEASURED: dict[str, tuple[str, Callable[[int], float]]] = {
    "reduce": ("reduce, ms a photograph", reduce),
    "losses": ("loss and gradients in blocks, ms a photograph", losses),
    "losses_at_once": ("loss and gradients at once, ms a photograph", losses_at_once),
    "temperature": ("temperature, s for 10,000 photographs", temperature),
    "size": ("bytes of a photograph on disk", size),
    "merge": ("read and judge one variant, s", merge),
    "compare": ("figures of one variant, 1,000 resamples, s", compare),
    "start": ("start of a training, s", start),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taxa", type=int, default=TAXA[-1], help="the most taxa")
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS[-1], help="the most photographs")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(*measure(options.one[0], int(options.one[1])))
        return
    sections = [
        "# Growth of training and evaluation",
        "",
        f"`python benchmarks/scale.py`: {processor()}, one thread, CPU time and peak memory of a process. Embeddings "
        f"of {WIDTH} numbers; {BATCH} photographs at a time, {LEARNED} in a batch of the losses, whose processes have "
        "600 MB without work. In brackets, CPU time of the code before (00d6606), cited from measurements on a machine "
        "of the same kind. The last column is the exponent between the first and the last.",
        "",
        *table(
            "taxa",
            [n for n in TAXA if n <= options.taxa],
            ("losses", "losses_at_once", "reduce", "temperature", "size"),
        ),
        "",
        "10,000 taxa:",
        "",
        *table("photographs", [n for n in PHOTOGRAPHS if n <= options.photographs], ("merge", "compare")),
        "",
        f"1,000 taxa, shards of {SHARD:,}; until the first batch is asked for. PyTorch takes most of the memory:",
        "",
        *table("photographs", [n for n in PHOTOGRAPHS if n <= options.photographs], ("start",)),
    ]
    OUTPUT.write_text("\n".join(sections) + "\n")


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
            cells.append(f"{value:,.3g}{before}, {memory:,.0f} MB" if name != "size" else f"{value:,.0f}")
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
