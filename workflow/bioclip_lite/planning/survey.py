"""Survey a source as far as it shows without stage index: read its names, and open a few photographs."""

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bioclip_lite.indexing import names
from bioclip_lite.photographs import images, licences
from bioclip_lite.sources.recognition import Form
from bioclip_lite.sources.registry import find_source
from bioclip_lite.sources.sample import SPLITS, Sample
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.defaults import defaults
from bioclip_lite.utils.randomness import digest

READ_SECONDS, LOOK_SECONDS = 20.0, 8.0  # for the names of all photographs, and for opening some
OPENED, DOWNLOADED = 48, 8  # photographs, at most: of those on disk, and of those on the web
FEW = 5  # photographs of a species, below which some splits have none of it


class Survey(NamedTuple):
    """What a source lists."""

    complete: bool  # whether it was read to its end; else the figures are of its beginning
    photographs: int  # that have a taxon, one of the list where there is a list
    taxa: Counter[taxonomy.Path]  # of these photographs, as the source names them
    common_names: int  # of these photographs, those with one
    licences: Counter[str]  # of these photographs: codes, "other" or "none stated"
    splits: Counter[str]  # of these photographs, where the source has splits of its own
    unnamed: int  # photographs without any name
    unlisted: int  # photographs whose taxon the list lacks
    rejects: Counter[str]  # reason -> places in the source
    listed: int  # names of the list; 0 without a list
    absent: list[str]  # names of the list of which the source has no photograph
    drawn: list[str]  # locators of some photographs, drawn by hash
    on_the_web: bool  # whether these are addresses


class Look(NamedTuple):
    """What a few photographs of a source are like, and what they cost; times are seconds of one processor."""

    opened: int
    unusable: Counter[str]  # reason -> photographs
    sides: tuple[int, int]  # median of the shorter and of the longer side, in pixels
    size: float  # bytes of a file, on average
    inspect: float  # for stage index
    pack: float  # for stage shard, with ``max_side``
    packed: bytes | None  # a photograph as stage shard packs it, with ``max_side``; None if none could be opened
    fetch: float  # to download one; 0 where they are on disk


def section(form: Form, downloads: Path = Path("data/downloads")) -> Any:
    """Section ``index`` of the parameters with the defaults, for the source of ``form``."""
    index = defaults()["index"]
    index["downloads"]["folder"] = str(downloads)
    return {**index, "source": form.source, "path": str(form.path)}


def survey(index: Any, species_list: Path | None, seconds: float = READ_SECONDS) -> Survey:
    """Read the names of all photographs of a source, or of as many as ``seconds`` allow.

    Memory grows with taxa, not with photographs. ``index``: the section of the parameters.

    Raises:
        UserError: the source or the list cannot be read.
    """
    entries = names.read_species_list(species_list) if species_list else []
    by_taxon: dict[taxonomy.Path, Counter[tuple[str, str]]] = {}  # -> photographs by licence and split
    called: dict[taxonomy.Path, Counter[str]] = {}
    rejects: Counter[str] = Counter()
    drawn: list[tuple[int, str, taxonomy.Path]] = []
    complete, end = True, time.monotonic() + seconds
    for item in find_source(index["source"]).samples(index):
        if time.monotonic() > end:
            complete = False
            break
        if not isinstance(item, Sample):
            rejects[item.reason] += 1
            continue
        by_taxon.setdefault(item.path, Counter())[_licence(item.licence), item.split or ""] += 1
        if item.common_name:
            called.setdefault(item.path, Counter())[item.common_name] += 1
        place = (-digest("init", item.key), item.locator, item.path)
        (heapq.heappush if len(drawn) < OPENED else heapq.heappushpop)(drawn, place)
    matches = _match(entries, by_taxon, called)
    nodes = {node for match in matches for node in match.nodes}
    named = {path for path in by_taxon if taxonomy.label_rank(path) >= 0 or path in called}
    kept = {path for path in named if not entries or names.is_listed(path, nodes)}
    facts = sum((by_taxon[path] for path in kept), Counter())
    taxa = Counter({path: by_taxon[path].total() for path in kept})
    locators = [locator for _, locator, path in sorted(drawn, reverse=True) if path in kept]
    return Survey(
        complete=complete,
        photographs=taxa.total(),
        taxa=taxa,
        common_names=sum(called[path].total() for path in kept if path in called),
        licences=_sums((licence, n) for (licence, _), n in facts.items()),
        splits=_sums((split, n) for (_, split), n in facts.items() if split in SPLITS),
        unnamed=sum(by_taxon[path].total() for path in by_taxon.keys() - named),
        unlisted=sum(by_taxon[path].total() for path in named - kept),
        rejects=rejects,
        listed=len(entries),
        absent=[match.entry.text for match in matches if not match.nodes],
        drawn=locators,
        on_the_web=any(locator.startswith(("http://", "https://")) for locator in locators),
    )


def _licence(text: str | None) -> str:
    return "none stated" if text is None else licences.code(text) or "other"


def _sums(numbers: Iterable[tuple[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, number in numbers:
        found[name] += number
    return found


def _match(
    entries: list[names.Entry], taxa: Iterable[taxonomy.Path], called: dict[taxonomy.Path, Counter[str]]
) -> list[names.Match]:
    known = names.Index()
    for path in taxa:
        known.add(path, called.get(path, ()))
    return names.match(entries, known, {}) if entries else []


def look(index: Any, found: Survey, max_side: int, seconds: float = LOOK_SECONDS) -> Look:
    """Open some of the photographs that a survey has drawn as stages index and shard do, and time it.

    Photographs on the web are downloaded to where stage index looks for them, few enough to be polite.
    """
    source = find_source(index["source"])
    locators = found.drawn[:DOWNLOADED] if found.on_the_web else found.drawn
    began = time.monotonic()
    if found.on_the_web:
        source.prepare(index, locators)  # type: ignore[attr-defined]
    fetch = (time.monotonic() - began) / max(1, len(locators)) if found.on_the_web else 0.0
    unusable: Counter[str] = Counter()
    opened: list[tuple[int, int, int, float, float]] = []  # sides, bytes, seconds
    packed: bytes | None = None
    end = time.monotonic() + seconds
    for locator in locators:
        if time.monotonic() > end and opened:
            break
        try:
            content = source.read(index, locator)
            inspected, (width, height, *_) = _timed(lambda content=content: images.inspect(content, index["min_side"]))
            took, packed = _timed(lambda content=content: images.to_jpeg(content, max_side))
        except images.BadImage as bad:
            unusable[bad.reason] += 1
        except OSError as error:
            unusable[str(error)[:80]] += 1
        else:
            opened.append((min(width, height), max(width, height), len(content), inspected, took))
    short, long, sizes, inspecting, packing = (
        zip(*opened, strict=True) if opened else ((0,), (0,), (0,), (0.0,), (0.0,))
    )
    return Look(
        opened=len(opened),
        unusable=unusable,
        sides=(round(median(short)), round(median(long))),
        size=sum(sizes) / len(sizes),
        inspect=median(inspecting),
        pack=median(packing),
        packed=packed,
        fetch=fetch,
    )


def _timed(work: Any) -> tuple[float, Any]:
    """(seconds of this process, result)"""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def describe(form: Form, found: Survey, seen: Look) -> Iterator[str]:
    """Lines for the user: what there is, and what is missing and how to get it."""
    beginning = "" if found.complete else f"; only what {READ_SECONDS:.0f} seconds allow was read, there is more"
    yield f"{form.path}: source {form.source}, by {form.why}"
    yield f"photographs  {found.photographs:,} of {len(found.taxa):,} taxa{beginning}"
    yield from _counts(found)
    yield from _pixels(found, seen)
    yield from _ranks(found)
    yield from _terms(found)
    yield from _left_out(found)


def _counts(found: Survey) -> Iterator[str]:
    if not found.taxa:
        return
    counts = sorted(found.taxa.values())
    yield f"per taxon    {counts[0]:,} to {counts[-1]:,} photographs, median {median(counts):g}"
    few = [path for path, n in found.taxa.items() if n < FEW]
    if few:
        yield (
            f"few          {len(few):,} taxa have fewer than {FEW} photographs, so that not all splits have one: "
            f"{_some(map(names.full_name, few))}"
        )
    if found.listed:
        absent = f"; none of {_some(found.absent)}" if found.absent else ""
        yield (f"list         {found.listed - len(found.absent):,} of {found.listed:,} names have photographs{absent}")


def _pixels(found: Survey, seen: Look) -> Iterator[str]:
    if seen.opened:
        yield (
            f"pixels       {seen.sides[1]:,} x {seen.sides[0]:,} (median of {seen.opened} opened), "
            f"{seen.size / 1e6:.2g} MB a file"
        )
    if seen.unusable:
        reasons = "; ".join(f"{n} {reason}" for reason, n in seen.unusable.most_common(3))
        yield f"unusable     {seen.unusable.total()} of {seen.opened + seen.unusable.total()} opened: {reasons}"


def _ranks(found: Survey) -> Iterator[str]:
    known = [sum(n for path, n in found.taxa.items() if path[rank]) for rank in range(len(taxonomy.RANKS))]
    total = max(1, found.photographs)
    shares = ", ".join(f"{rank} {n / total:.0%}" for rank, n in zip(taxonomy.RANKS, known, strict=True) if n)
    called = f"; common names {found.common_names / total:.0%}" if found.common_names else ""
    yield f"ranks        {shares or 'none'}{called}"
    above = known[taxonomy.RANKS.index("family")]
    if above < 0.5 * total:
        yield (
            "             most have no rank above the genus, so that an answer in doubt ends there; columns of ranks "
            "in the table, a list with ranks, or a taxonomy (index.taxonomy) gives them"
        )


def _terms(found: Survey) -> Iterator[str]:
    shares = ", ".join(f"{licence} {n:,}" for licence, n in found.licences.most_common())
    yield f"licences     {shares}"
    if found.licences["none stated"]:
        yield "             a model may be published only if you may use these photographs: say so in column licence"


def _left_out(found: Survey) -> Iterator[str]:
    parts = [f"{n:,} {reason}" for reason, n in found.rejects.most_common(4)]
    parts += [f"{found.unlisted:,} of taxa that the list lacks"] * bool(found.unlisted)
    if parts:
        yield f"left out     {', '.join(parts)}"
    if found.unnamed:
        yield f"no name      {found.unnamed:,} photographs"


def _some(texts: Iterable[str]) -> str:
    first = list(texts)
    return ", ".join(first[:4]) + (f" and {len(first) - 4:,} more" if len(first) > 4 else "")
