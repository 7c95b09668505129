"""A bundle's table of taxa in parts by clade, of which a page loads those that a photograph needs.

A table above ``convert.whole_table`` bytes is divided where its tree divides: a clade whose rows are too many for one
part gives way to the clades below it. bundle.json then lists the clades in place of the taxa, format 3, and
``text.file`` holds one row for each of them, the unit mean of its rows; a clade of one taxon is that taxon. The file of
a part is the table of its rows, as that of a whole table, and behind it their entries of ``taxa`` as JSON.

The answer to a photograph does not depend on what happens to be loaded. The ``chosen`` clades whose rows have the
largest logits give the logits of their taxa; each taxon of another clade has the logit of its clade's row. How many are
chosen is measured on calibration photographs, and temperature and thresholds are fitted to answers that are given so.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.web import budget, bundle

FORMAT = 3  # of bundle.json with parts
SAME = 0.99  # of the calibration photographs have the best taxon of the whole table
_PARTS = 40  # the largest part is this fraction of a table that is just not divided: 500 kB
_GENUS = RANKS.index("genus")

Answering = Callable[[np.ndarray], np.ndarray]


class Clade(NamedTuple):
    """Neighbours in a table."""

    path: TaxonPath
    rows: int


@dataclass(frozen=True)
class Split:
    """A table of R rows in parts: P clades, in tree order, which together are the table."""

    clades: list[Clade]
    scales: np.ndarray  # float32 (P,), of the rows that stand for the clades
    integers: np.ndarray  # int8 (P, D)
    chosen: int  # clades whose taxa answer to a photograph

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each clade, int64 (P,)."""
        return np.array([clade.rows for clade in self.clades])


class Shipped(NamedTuple):
    """The table of a bundle, with all of its parts."""

    entries: list[dict[str, Any]]  # ``taxa`` of bundle.json, or of its parts
    scales: np.ndarray  # float32 (R,)
    integers: np.ndarray  # int8 (R, D)
    split: Split | None


# ---- the parts


def split(table: bundle.Table, limit: int | None) -> Split | None:
    """Divide a table of more than ``limit`` bytes, all of whose clades are chosen; None where one file will do.

    That is a table within the limit (None: any), and one of a single genus, which is not divided.
    """
    row = budget.row_bytes(table.integers.shape[1])
    if limit is None or len(table.paths) * row <= limit:
        return None
    clades = list(clades_of(table.paths, 0, max(1, limit // _PARTS // row)))
    if len(clades) == 1:
        return None
    text, places = table.text, _places(clades)
    means = np.stack([text[rows].mean(axis=0) for rows in places])
    encoded = store.encode(means / np.linalg.norm(means, axis=1, keepdims=True), "int8")
    scales, integers = encoded["scales"].copy(), encoded["embeddings"].copy()
    for place, rows in enumerate(places):
        if clades[place].rows == 1:  # the taxon itself, whose bits must stay
            scales[place], integers[place] = table.scales[rows.start], table.integers[rows.start]
    return Split(clades, scales, integers, len(clades))


def _places(clades: Sequence[Clade]) -> list[slice]:
    """Rows of each clade in the table."""
    return [slice(*ends) for ends in pairwise(accumulate((clade.rows for clade in clades), initial=0))]


def clades_of(paths: Sequence[TaxonPath], rank: int, most: int) -> Iterator[Clade]:
    """The highest clades of at most ``most`` rows, or a genus, in paths that share all names above ``rank``."""
    for above, group in groupby(paths, key=lambda path: path[: rank + 1]):
        below = list(group)
        if len(below) == 1:
            yield Clade(below[0], 1)
        elif any(above) and (len(below) <= most or rank == _GENUS):
            ends = zip(below[0], below[-1], strict=True)  # of sorted paths: what they share all share
            shared = [one for one, _ in takewhile(lambda names: names[0] == names[1], ends)]
            yield Clade((*shared, *[None] * (len(RANKS) - len(shared))), len(below))
        else:
            yield from clades_of(below, rank + 1, most)


def choose(
    table: bundle.Table, divided: Split | None, logit_scale: float, embeddings: np.ndarray
) -> tuple[Split | None, dict[str, Any] | None]:
    """Choose the fewest clades with which SAME of the photographs have the best taxon of the whole table.

    A table in one file (None) stays as it is.

    Args:
        embeddings: unit, float (n, D), of calibration photographs.

    Returns:
        (the split, what it does to these photographs, for a report).
    """
    if divided is None:
        return None, None
    whole, of_clades = (logit_scale * (embeddings @ rows.T) for rows in (table.text, _text(divided)))
    needed = np.sort(clades_needed(whole, of_clades, divided.sizes))
    chosen = int(needed[int(np.ceil(SAME * len(needed))) - 1])
    loaded = np.where(divided.sizes > 1, divided.sizes, 0) * budget.row_bytes(table.integers.shape[1])
    first = np.argsort(-of_clades, axis=1, kind="stable")[:, :chosen]
    return replace(divided, chosen=chosen), {
        "clades": len(divided.clades),
        "chosen": chosen,
        "photographs": len(needed),
        "same_taxon": float((needed <= chosen).mean()),
        "first_table_bytes": len(divided.clades) * budget.row_bytes(table.integers.shape[1]),
        "table_bytes_of_a_photograph": float(loaded[first].sum(axis=1).mean()),
    }


def sentence(measured: Mapping[str, Any]) -> str:
    """Say in words what ``choose`` measured."""
    return (
        f"the table is in {measured['clades']:,} clades, of which {measured['chosen']:,} answer to a photograph: a "
        f"page loads {measured['first_table_bytes'] / 1e6:.2f} MB of it first and "
        f"{measured['table_bytes_of_a_photograph'] / 1e6:.2f} MB for a photograph. {measured['same_taxon']:.1%} of "
        f"{measured['photographs']:,} calibration photographs have the best taxon of the whole table"
    )


def clades_needed(whole: np.ndarray, of_clades: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Count the clades that must be chosen for the best taxon to be that of the whole table, int64 (n,).

    Args:
        whole: logits, float (n, R).
        of_clades: logits of the rows that stand for the clades, float (n, P).
        sizes: rows of each clade, int (P,).
    """
    own = np.repeat(np.arange(len(sizes)), sizes)[whole.argmax(axis=1)][:, None]
    logit = np.take_along_axis(of_clades, own, axis=1)
    before = (of_clades > logit) | (of_clades == logit) & (np.arange(len(sizes)) < own)
    above = of_clades > whole.max(axis=1, keepdims=True)  # clades that would be the best themselves
    return np.maximum(before.sum(axis=1) + 1, above.sum(axis=1))


def answering(text: np.ndarray, divided: Split | None, logit_scale: float) -> Answering:
    """Make the function from unit embeddings, float (n, D), to logits of all taxa, float32 (n, R), as they ship.

    ``text``: the rows of the whole table, float32 (R, D).
    """

    def whole(embeddings: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.float32(logit_scale) * (embeddings @ text.T)
        return found

    if divided is None:
        return whole
    sizes, rows, chosen = divided.sizes, _text(divided), divided.chosen

    def by_clade(embeddings: np.ndarray) -> np.ndarray:
        of_clades = np.float32(logit_scale) * (embeddings @ rows.T)
        left = np.ones(of_clades.shape, dtype=bool)
        np.put_along_axis(left, np.argsort(-of_clades, axis=1, kind="stable")[:, :chosen], False, axis=1)
        left_rows, of_rows = (np.repeat(values, sizes, axis=1) for values in (left, of_clades))
        return np.where(left_rows, of_rows, whole(embeddings))

    return by_clade


def _text(divided: Split) -> np.ndarray:
    """The rows that stand for the clades, float32 (P, D)."""
    return store.decode(divided.integers, divided.scales)


# ---- the files


def write(folder: Path, table: bundle.Table, divided: Split | None) -> dict[str, Any]:
    """Write a table to the folder of a bundle; entries ``format``, ``taxa`` and ``text`` of its bundle.json."""
    taxa = table.described
    counts = {"left_out": table.left_out, "representatives": table.representatives}
    if divided is None:
        file = bundle.add(folder, "taxa", ".bin", table.content())
        return {"format": bundle.FORMAT, "taxa": taxa, "text": {"file": file, "rows": len(taxa), **counts}}
    files = [
        {"file": _add_part(folder, table, rows, taxa[rows]), "rows": clade.rows} if clade.rows > 1 else None
        for clade, rows in zip(divided.clades, _places(divided.clades), strict=True)
    ]
    text = {
        "file": bundle.add(folder, "taxa", ".bin", bundle.content(divided.scales, divided.integers)),
        "rows": len(divided.clades),
        **counts,
        "parts": {
            "chosen": divided.chosen,
            "taxa": len(taxa),
            "zero_shot": sum(table.zero_shot),
            "files": files,
        },
    }
    return {"format": FORMAT, "taxa": _described(table, divided, taxa), "text": text}


def _add_part(folder: Path, table: bundle.Table, rows: slice, taxa: list[dict[str, Any]]) -> str:
    content = bundle.content(table.scales[rows], table.integers[rows])
    return bundle.add(folder, "part", ".bin", content + bundle.json_bytes(taxa))


def _described(table: bundle.Table, divided: Split, taxa: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of the clades: one that may be named no lower than some taxon in it, and stands for all of them."""
    return [
        taxa[rows.start]
        if clade.rows == 1
        else bundle.entry_of(
            clade.path,
            {},
            bool(all(table.zero_shot[rows])),
            int(table.finest_rank[rows].min()),
            None,
            int(table.stands_for[rows].sum()),
        )
        for clade, rows in zip(divided.clades, _places(divided.clades), strict=True)
    ]


def files(about: Mapping[str, Any]) -> list[str]:
    """Names of the files of a bundle's table, ``about`` being its bundle.json; the first is loaded at once."""
    text = about["text"]
    return [text["file"], *(part["file"] for part in text.get("parts", {}).get("files", ()) if part)]


def entries(folder: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read ``taxa`` of all rows of a bundle's table, ``about`` being its bundle.json."""
    return read(folder, about).entries if "parts" in about["text"] else list(about["taxa"])


def read(folder: Path, about: Mapping[str, Any]) -> Shipped:
    """Read the table of a bundle and all of its parts, whose hashes the caller has checked.

    Raises:
        ValueError, KeyError: ``about``, its bundle.json, does not say what the files hold.
    """
    text, taxa = about["text"], about["taxa"]
    scales, integers, _ = _rows(folder, {"file": text["file"], "rows": len(taxa)}, text["columns"])
    if "parts" not in text:
        return Shipped(list(taxa), scales, integers, None)
    clades: list[Clade] = []
    named: list[dict[str, Any]] = []
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    for row, (clade, part) in enumerate(zip(taxa, text["parts"]["files"], strict=True)):
        clades.append(Clade(tuple(clade["ranks"]), part["rows"] if part else 1))
        if part:
            *table, behind = _rows(folder, part, text["columns"])
            named += json.loads(behind)
        else:
            table = [scales[row : row + 1], integers[row : row + 1]]
            named.append(clade)
        tables.append((table[0], table[1]))
    whole_scales, whole_integers = (np.concatenate(values) for values in zip(*tables, strict=True))
    if len(named) != len(whole_scales):
        raise ValueError(f"its parts have {len(whole_scales)} rows for {len(named)} taxa")
    return Shipped(named, whole_scales, whole_integers, Split(clades, scales, integers, text["parts"]["chosen"]))


def _rows(folder: Path, table: Mapping[str, Any], columns: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    """(scales, integers, what is behind them) of a file with a table: its "file" and "rows"."""
    content, rows = (folder / table["file"]).read_bytes(), table["rows"]
    integers = np.frombuffer(content, "i1", rows * columns, 4 * rows).reshape(rows, columns)
    return np.frombuffer(content, "<f4", rows), integers, content[rows * (4 + columns) :]
