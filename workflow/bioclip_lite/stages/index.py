"""Stage index: which photographs there are, of which taxa, and which split each belongs to."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bioclip_lite import taxonomy
from bioclip_lite.contact_sheet import draw_contact_sheet
from bioclip_lite.errors import UserError
from bioclip_lite.files import write_table
from bioclip_lite.images import BadImage, inspect
from bioclip_lite.progress import progress
from bioclip_lite.randomness import digest
from bioclip_lite.sources import SPLITS, Reject, Sample, find_source

_BATCH = 4096  # photographs handed to the workers at a time
SHEET_TAXA, SHEET_IMAGES = 40, 8
_TEXT = pa.string()
SAMPLES = pa.schema(
    [
        *((name, _TEXT) for name in ("key", "locator", "split", "taxon_id", "group", *taxonomy.RANKS)),
        *((name, _TEXT) for name in ("common_name", "licence", "attribution")),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("md5", _TEXT),
    ]
)
TAXA = pa.schema(
    [
        *((name, _TEXT) for name in ("taxon_id", *taxonomy.RANKS, "common_name", "rank")),
        ("leaf", pa.bool_()),
        *((split, pa.int32()) for split in SPLITS),
    ]
)
REJECTS = pa.schema([(name, _TEXT) for name in ("locator", "reason", "detail")])


class Photograph(NamedTuple):
    """A sample whose file has been read."""

    sample: Sample
    md5: str
    width: int
    height: int


def run(params: dict[str, Any], data: Path, job: str | None = None) -> None:
    out = data / "index"
    found, rejects = _gather(params)
    kept = _keep(found, params["where"])
    photographs, unreadable = _examine_all(params, kept)
    photographs, copies = _without_copies(photographs)
    rejects += unreadable + copies
    _check(photographs, rejects, params)
    splits = _splits(photographs, params["split"], params["seed"])
    taxa = _taxa_table(photographs, splits)

    # The parameters that shard needs to read the source again travel with the table.
    origin = {name: params[name] for name in ("source", "path", "seed", "synthetic")}
    write_table(out / "samples.parquet", _samples_table(photographs, splits, {"source": json.dumps(origin)}))
    write_table(out / "taxa.parquet", taxa)
    rows = [{"locator": r.locator, "reason": r.reason, "detail": r.detail} for r in sorted(rejects, key=_reject_order)]
    write_table(out / "rejects.parquet", pa.Table.from_pylist(rows, REJECTS))
    read = partial(find_source(params["source"]).read, params)
    rows_shown = _sheet_rows(photographs, taxa)
    title = f"{len(rows_shown)} of {sum(taxa['leaf'].to_pylist())} taxa, in the order of the tree"
    draw_contact_sheet(out / "contact_sheet.png", title, rows_shown, read)
    _report(photographs, splits, taxa, rejects)


def _reject_order(reject: Reject) -> tuple[str, str]:
    return reject.locator, reject.reason


# ------------------------------------------------------------------------------------------------- what the source has


def _gather(params: dict[str, Any]) -> tuple[list[Sample], list[Reject]]:
    samples: list[Sample] = []
    rejects: list[Reject] = []
    for item in find_source(params["source"]).samples(params):
        if isinstance(item, Reject):
            rejects.append(item)
        elif taxonomy.label_rank(item.path) < 0:
            rejects.append(Reject(item.locator, "no taxon", "no rank is known"))
        else:
            samples.append(item)
    return samples, rejects


def _keep(samples: list[Sample], where: dict[str, list[str]]) -> list[Sample]:
    """The samples whose names are among those listed, rank by rank."""
    for rank, wanted in where.items():
        if rank not in taxonomy.RANKS:
            raise UserError(f"params.yaml, index.where: {rank!r} is no rank; ranks: {', '.join(taxonomy.RANKS)}")
        place = taxonomy.RANKS.index(rank)
        available = sorted({s.path[place] or "" for s in samples} - {""})
        for name in wanted:
            if name not in available:
                near = get_close_matches(str(name), available, n=5) or available[:10]
                raise UserError(
                    f"params.yaml, index.where.{rank}: nothing in the source is called {name!r}; "
                    f"of {len(available)} names at this rank: {', '.join(near) or 'none'}"
                )
    kept = [s for s in samples if all(s.path[taxonomy.RANKS.index(r)] in names for r, names in where.items())]
    if samples and not kept:
        raise UserError(f"params.yaml, index.where: {where} leaves none of {len(samples)} photographs; loosen it")
    return kept


# ------------------------------------------------------------------------------------------------------ the photographs


def _examine(params: dict[str, Any], sample: Sample) -> Photograph | Reject:
    try:
        content = find_source(params["source"]).read(params, sample.locator)
        width, height = inspect(content, params["min_side"])
    except BadImage as bad:
        return Reject(sample.locator, bad.reason, bad.detail)
    except FileNotFoundError as error:
        return Reject(sample.locator, "missing file", str(error))
    except OSError as error:
        return Reject(sample.locator, "unreadable", str(error))
    return Photograph(sample, hashlib.md5(content, usedforsecurity=False).hexdigest(), width, height)


def _examine_all(params: dict[str, Any], samples: list[Sample]) -> tuple[list[Photograph], list[Reject]]:
    photographs: list[Photograph] = []
    rejects: list[Reject] = []
    results = _in_parallel(partial(_examine, params), samples)
    for result in progress(results, len(samples), "index: photographs read"):
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            photographs.append(result)
    photographs.sort(key=lambda p: p.sample.key)
    return photographs, rejects


def _in_parallel(work: partial[Photograph | Reject], samples: list[Sample]) -> Iterator[Photograph | Reject]:
    """``map(work, samples)`` on all processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    if workers == 1 or len(samples) < 256:
        yield from map(work, samples)
        return
    waiting = iter(samples)
    try:
        with ProcessPoolExecutor(workers) as pool:
            while batch := list(islice(waiting, _BATCH)):
                yield from pool.map(work, batch, chunksize=32)
    except BrokenProcessPool:
        raise UserError("index: a process that reads photographs was killed; usually memory ran out") from None


def _without_copies(photographs: list[Photograph]) -> tuple[list[Photograph], list[Reject]]:
    """Keep one of each set of identical files, and none where their labels contradict each other.

    Labels agree if they lie on one line of descent; the copy with the most precise label stays.
    """
    copies: dict[str, list[Photograph]] = defaultdict(list)
    for photograph in photographs:
        copies[photograph.md5].append(photograph)
    kept, rejects = [], []
    for same in copies.values():
        best = max(same, key=lambda p: taxonomy.label_rank(p.sample.path))  # the first of the most precise
        path, paths = best.sample.path, {p.sample.path for p in same}
        if all(other == path or taxonomy.is_ancestor(other, path) for other in paths):
            kept.append(best)
            detail = f"same file as {best.sample.locator}"
            rejects += [Reject(p.sample.locator, "duplicate", detail) for p in same if p is not best]
        else:
            detail = f"the same file is labelled {' and '.join(sorted(map(taxonomy.scientific_name, paths)))}"
            rejects += [Reject(p.sample.locator, "conflicting labels", detail) for p in same]
    return sorted(kept, key=lambda p: p.sample.key), rejects


def _check(photographs: list[Photograph], rejects: list[Reject], params: dict[str, Any]) -> None:
    """Stop with what was found where no classifier can come of it."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r.reason for r in rejects).most_common())
    told = f" Left out: {reasons}, first {rejects[0].locator!r} ({rejects[0].detail})." if rejects else ""
    place = f"index: source {params['source']!r}"
    if not photographs:
        raise UserError(f"{place} gave no usable photograph.{told}")
    leaves = taxonomy.label_space(p.sample.path for p in photographs)
    if len(leaves) < 2:
        name = taxonomy.scientific_name(leaves[0])
        raise UserError(f"{place} has one class only, {name}; a classifier needs two or more.{told}")
    keys = Counter(p.sample.key for p in photographs)
    (key, times), *_ = keys.most_common(1)
    if times > 1:
        raise UserError(f"{place} gave {times} different photographs the key {key!r}; rename one of the files")


# -------------------------------------------------------------------------------------------------------------- splits


def _splits(photographs: Sequence[Photograph], shares: dict[str, float], seed: int) -> dict[str, str]:
    """The split of each observation: the source's word where it has one, otherwise dealt taxon by taxon."""
    stated: dict[str, str] = {}
    for photograph in photographs:
        sample = photograph.sample
        if sample.split is None:
            continue
        if sample.split not in SPLITS:
            raise UserError(f"index: {sample.locator} states split {sample.split!r}; splits: {', '.join(SPLITS)}")
        if stated.setdefault(sample.group, sample.split) != sample.split:
            raise UserError(
                f"index: observation {sample.group!r} stands in splits {stated[sample.group]!r} and {sample.split!r} "
                f"({sample.locator}); photographs of one individual must share a split"
            )
    to_deal: dict[str, set[str]] = defaultdict(set)
    dealt: set[str] = set()
    for photograph in photographs:  # an observation with several labels is dealt with the first
        group = photograph.sample.group
        if group not in stated and group not in dealt:
            dealt.add(group)
            to_deal[taxonomy.taxon_id(photograph.sample.path)].add(group)
    for taxon, groups in to_deal.items():
        stated.update(deal(taxon, groups, shares, seed))
    return stated


def deal(taxon: str, groups: set[str], shares: dict[str, float], seed: int) -> dict[str, str]:
    """Deal the observations of one taxon to splits by shares (largest remainders), in an order drawn by hash.

    A single observation goes to train, and train never goes without.
    """
    quota = {split: share * len(groups) for split, share in shares.items() if share > 0}
    sizes = {split: int(q + 1e-9) for split, q in quota.items()}

    def claim(split: str) -> tuple[float, int]:
        # Without the hash, equal remainders would always favour the same split.
        return round(quota[split] - sizes[split], 6), digest(seed, "index", "tie", taxon, split)

    left = len(groups) - sum(sizes.values())
    for split in sorted(quota, key=claim, reverse=True)[:left]:
        sizes[split] += 1
    if not sizes["train"]:  # the other splits took every group
        sizes[max(sizes, key=lambda split: sizes[split])] -= 1
        sizes["train"] = 1
    order = iter(sorted(groups, key=lambda group: digest(seed, "index", "deal", group)))
    return {group: split for split in SPLITS for group in islice(order, sizes.get(split, 0))}


# -------------------------------------------------------------------------------------------------------------- tables


def _samples_table(photographs: Sequence[Photograph], splits: dict[str, str], metadata: dict[str, str]) -> pa.Table:
    def row(photograph: Photograph) -> dict[str, Any]:
        sample = photograph.sample
        return {
            **{
                name: getattr(sample, name)
                for name in ("key", "locator", "group", "common_name", "licence", "attribution")
            },
            **dict(zip(taxonomy.RANKS, sample.path, strict=True)),
            "split": splits[sample.group],
            "taxon_id": taxonomy.taxon_id(sample.path),
            "width": photograph.width,
            "height": photograph.height,
            "md5": photograph.md5,
        }

    schema = SAMPLES.with_metadata(metadata)
    starts = range(0, len(photographs), _BATCH)
    batches = [pa.RecordBatch.from_pylist([*map(row, photographs[i : i + _BATCH])], schema) for i in starts]
    return pa.Table.from_batches(batches, schema)


def _taxa_table(photographs: Sequence[Photograph], splits: dict[str, str]) -> pa.Table:
    images: dict[taxonomy.Path, Counter[str]] = defaultdict(Counter)
    common: dict[taxonomy.Path, Counter[str]] = defaultdict(Counter)
    for photograph in photographs:
        sample = photograph.sample
        images[sample.path][splits[sample.group]] += 1
        if sample.common_name:
            common[sample.path][sample.common_name] += 1
    leaves = set(taxonomy.label_space(images))
    rows = []
    for path in sorted(images, key=lambda p: tuple(name or "" for name in p)):
        names = sorted(common[path], key=lambda name: (-common[path][name], name))
        rows.append(
            {
                "taxon_id": taxonomy.taxon_id(path),
                **dict(zip(taxonomy.RANKS, path, strict=True)),
                "common_name": names[0] if names else None,
                "rank": taxonomy.RANKS[taxonomy.label_rank(path)],
                "leaf": path in leaves,
                **{split: images[path][split] for split in SPLITS},
            }
        )
    return pa.Table.from_pylist(rows, TAXA)


def _sheet_rows(photographs: Sequence[Photograph], taxa: pa.Table) -> list[tuple[taxonomy.Path, str | None, list[str]]]:
    """Up to 40 leaves, neighbours in pairs so that relatives can be compared, with the locators of 8 photographs."""
    leaves = [row for row in taxa.to_pylist() if row["leaf"]]
    if len(leaves) > SHEET_TAXA:
        pairs = SHEET_TAXA // 2
        starts = [2 * (i * (len(leaves) // 2) // pairs) for i in range(pairs)]
        leaves = [leaves[start + i] for start in starts for i in (0, 1)]
    chosen: dict[taxonomy.Path, list[Sample]] = {tuple(leaf[r] for r in taxonomy.RANKS): [] for leaf in leaves}
    for photograph in photographs:
        if photograph.sample.path in chosen:
            chosen[photograph.sample.path].append(photograph.sample)
    rows = []
    for leaf, (path, samples) in zip(leaves, chosen.items(), strict=True):
        samples.sort(key=lambda s: digest("contact sheet", s.key))
        rows.append((path, leaf["common_name"], [s.locator for s in samples[:SHEET_IMAGES]]))
    return rows


def _report(photographs: Sequence[Photograph], splits: dict[str, str], taxa: pa.Table, rejects: list[Reject]) -> None:
    counts = Counter(splits[p.sample.group] for p in photographs)
    leaves = sum(taxa["leaf"].to_pylist())
    shares = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
    print(f"index: {len(photographs)} photographs of {leaves} taxa to tell apart ({shares})")
    untrained = sum(not (row["train"] or row["pretrain"]) for row in taxa.to_pylist() if row["leaf"])
    if untrained:
        print(f"index: {untrained} of these taxa have no training photograph")
    for reason, number in Counter(r.reason for r in rejects).most_common():
        print(f"index: {number} left out: {reason} (rejects.parquet)")
