"""The files of a bundle: its table of taxa, its model, and the credits of its photographs.

The rows of the taxon table are in tree order, so that the taxa below one node are neighbours and the probability of
the node is the sum of a segment. A row is int8 with a float32 scale: value = scale * int8. If a budget of bytes leaves
no room for every species, those with the fewest photographs are replaced by one representative of their genus: the
unit mean of their rows, which counts as the row of each of them. (A table without the genera of omitted species is
worse at the family than no table at all.) ``parts`` divides tables that are too large for one file.
"""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bioclip_lite.graph import execution
from bioclip_lite.graph.nodes import Graph, Weights
from bioclip_lite.taxa.label_space import LEARNED, read_labels
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, taxon_id
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, require
from bioclip_lite.utils.spreadsheets import unguarded
from bioclip_lite.web import budget, manifest, tfjs

FILE = "bundle.json"
FORMAT = 2  # of bundle.json; react-bio-clip refuses others
HASHED = "*-" + 8 * "[0-9a-f]" + ".*"  # names of the files that it lists, as written by ``add``
NAMES = (FILE, FILE + manifest.SIGNATURE, HASHED)  # of all files
_SPECIES, _GENUS = RANKS.index("species"), RANKS.index("genus")
_OWNERS = 20  # of most photographs, named in bundle.json


class Remark(NamedTuple):
    """What is to be told with the name of a taxon."""

    zero_shot: bool  # no photograph was learned from
    finest_rank: int  # index into RANKS of the lowest rank that an answer may have
    note: str | None


@dataclass(frozen=True)
class Table:
    """The taxa of a bundle in tree order, C of them."""

    paths: list[TaxonPath]
    common_names: list[dict[str, str]]  # by language
    zero_shot: list[bool]
    finest_rank: np.ndarray  # int8 (C,), index into RANKS of the lowest rank that an answer may have
    notes: list[str | None]
    stands_for: np.ndarray  # int64 (C,), species that a representative of a genus replaces; 1 for any other row
    scales: np.ndarray  # float32 (C,)
    integers: np.ndarray  # int8 (C, D)
    left_out: int  # species replaced by a representative of their genus
    representatives: int

    @property
    def ids(self) -> list[str]:
        return [taxon_id(path) for path in self.paths]

    @property
    def text(self) -> np.ndarray:
        """Values of the integers, float32 (C, D); JavaScript computes the same bits."""
        return store.decode(self.integers, self.scales)

    def content(self) -> bytes:
        """The file."""
        return content(self.scales, self.integers)

    def languages(self) -> list[str]:
        """Languages of the common names, English first."""
        languages = {language for names in self.common_names for language in names}
        return sorted(languages, key=lambda language: (language != "en", language))

    @cached_property
    def described(self) -> list[dict[str, Any]]:
        """Entry ``taxa`` of bundle.json, or of its parts."""
        remarks = self.zero_shot, self.finest_rank.tolist(), self.notes, self.stands_for.tolist()
        return [entry_of(*row) for row in zip(self.paths, self.common_names, *remarks, strict=True)]


def content(scales: np.ndarray, integers: np.ndarray) -> bytes:
    """Bytes of a table: the scales, float32 (C,), little-endian, then the integers, int8 (C, D), row by row."""
    return scales.astype("<f4").tobytes() + np.ascontiguousarray(integers).tobytes()


def entry_of(
    path: TaxonPath, names: dict[str, str], zero_shot: bool, finest: int, note: str | None, stands_for: int
) -> dict[str, Any]:
    """One entry of ``taxa``; what is so for most taxa is not written."""
    return (
        _entry(path, names)
        | ({"zero_shot": True} if zero_shot else {})
        | ({"finest_rank": RANKS[finest]} if finest < label_rank(path) else {})
        | ({"note": note} if note else {})
        | ({"stands_for": stands_for} if stands_for > 1 else {})
    )


def make_table(data: Path, text: store.Taxa, limit: int | None) -> Table:
    """Make the table of data/index/taxa.parquet and the teacher's ``text``, in at most ``limit`` bytes (None: all).

    Raises:
        UserError: ``text`` belongs to other taxa, or one row per genus exceeds the limit.
    """
    rows = read_table(data / "index" / "taxa.parquet").to_pylist()
    leaves = {row["taxon_id"]: number for number, row in enumerate(rows) if row["leaf"]}
    if list(leaves) != text.taxon_ids:
        raise UserError(
            f"data/logits/taxa.safetensors has {len(text.taxon_ids)} taxa, data/index/taxa.parquet {len(leaves)} "
            "leaves, and they differ; run stage logits again"
        )
    vectors = {_path(rows[number]): vector for number, vector in zip(leaves.values(), text.text, strict=True)}
    labels = read_labels(data)
    columns = labels.leaves, labels.zero_shot.tolist(), labels.finest_rank.tolist(), labels.notes
    remarks = {path: Remark(*row) for path, *row in zip(*columns, strict=True)}
    return table_of(vectors, names_of(rows), remarks, photographs_of(rows), limit)


def names_bytes(rows: Iterable[dict[str, Any]]) -> int:
    """Count the bytes of entry ``taxa`` of bundle.json for rows of data/index/taxa.parquet, remarks left out."""
    return sum(len(json_bytes(_entry(_path(row), _common_names(row)))) + 1 for row in rows)


def _entry(path: TaxonPath, names: dict[str, str]) -> dict[str, Any]:
    return {"id": taxon_id(path), "ranks": list(path), "common_names": names, "rank": RANKS[label_rank(path)]}


def names_of(rows: Iterable[dict[str, Any]]) -> dict[TaxonPath, dict[str, str]]:
    """Common names by language of each path in rows of data/index/taxa.parquet."""
    return {_path(row): _common_names(row) for row in rows}


def photographs_of(rows: Iterable[dict[str, Any]]) -> dict[TaxonPath, int]:
    """Number of photographs that models learned from, of each path in rows of data/index/taxa.parquet."""
    return {_path(row): sum(row.get(split) or 0 for split in LEARNED) for row in rows}


def table_of(
    vectors: Mapping[TaxonPath, np.ndarray],
    names: Mapping[TaxonPath, dict[str, str]],
    remarks: Mapping[TaxonPath, Remark],
    photographs: Mapping[TaxonPath, int],
    limit: int | None,
) -> Table:
    """Make the table of C leaves from their unit ``vectors``, float32 (D,), in at most ``limit`` bytes (None: all).

    Args:
        names: common names by language; a path may be missing.
        remarks: of each leaf.
        photographs: that models learned from; a path may be missing.

    Raises:
        UserError: one row per genus exceeds the limit.
    """
    vectors, said = dict(vectors), dict(remarks)
    width = len(next(iter(vectors.values())))
    places = len(vectors) if limit is None else limit // budget.row_bytes(width)
    left_out = _left_out(list(vectors), [photographs.get(path, 0) for path in vectors], places)
    genera: dict[TaxonPath, list[TaxonPath]] = defaultdict(list)
    for path in left_out:
        genera[(*path[:_SPECIES], None)].append(path)
    for genus, members in genera.items():
        mean = np.mean([vectors.pop(path) for path in members], axis=0)
        vectors[genus] = (mean / np.linalg.norm(mean)).astype(np.float32)
        zero_shot, finest, _ = zip(*(said[path] for path in members), strict=True)
        said[genus] = Remark(all(zero_shot), min(finest), None)
    paths = sorted(vectors, key=lambda path: tuple(name or "" for name in path))
    encoded = store.encode(np.stack([vectors[path] for path in paths]), "int8")
    return Table(
        paths=paths,
        common_names=[names.get(path, {}) for path in paths],
        zero_shot=[said[path].zero_shot for path in paths],
        finest_rank=np.array([said[path].finest_rank for path in paths], dtype=np.int8),
        notes=[said[path].note for path in paths],
        stands_for=np.array([len(genera.get(path, (path,))) for path in paths]),
        scales=encoded["scales"],
        integers=encoded["embeddings"],
        left_out=len(left_out),
        representatives=len(genera),
    )


def _path(row: dict[str, Any]) -> TaxonPath:
    return tuple(row[rank] for rank in RANKS)


def _common_names(row: dict[str, Any]) -> dict[str, str]:
    """By language; a source's column "common_name" is English by convention."""
    names = {"en": row["common_name"], **dict(row.get("common_names") or ())}
    return {language: name for language, name in sorted(names.items()) if name}


def _left_out(paths: Sequence[TaxonPath], photographs: Sequence[int], places: int) -> list[TaxonPath]:
    """The fewest species, those with the fewest photographs, whose omission lets the rest and their genera fit."""
    movable = [n for n, path in enumerate(paths) if path[_SPECIES] and path[_GENUS]]
    order = sorted(movable, key=lambda n: (photographs[n], taxon_id(paths[n])))
    genera: Counter[TaxonPath] = Counter()
    for count in range(len(order) + 1):
        if len(paths) - count + len(genera) <= places:
            # Omitting a single species of a genus saves nothing: its representative is a row, too.
            return [paths[n] for n in sorted(order[:count]) if genera[paths[n][:_SPECIES]] > 1]
        if count < len(order):
            genera[paths[order[count]][:_SPECIES]] += 1
    least = len(paths) - len(order) + len(genera)
    raise UserError(
        f"convert.taxa_bytes leaves room for {places} rows, but one row per genus needs {least}; set it to at least "
        f"{least} times the bytes of a row, or to null for all species, or shorten the list of species"
    )


def photographs(data: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Count the photographs of data/index/ATTRIBUTION.csv by licence, and by owner: the largest ones and the others.

    Reads row by row. Photographs without a licence, or an owner, count as "not stated".
    """
    licences: Counter[str] = Counter()
    owners: Counter[str] = Counter()
    with require(data / "index" / "ATTRIBUTION.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            licences[unguarded(row["licence"]) or "not stated"] += 1
            owners[unguarded(row["attribution"]) or "not stated"] += 1
    most = sorted(owners.items(), key=lambda item: (-item[1], item[0]))
    named = [{"name": name, "photographs": count} for name, count in most[:_OWNERS]]
    if len(most) > _OWNERS:
        others = sum(count for _, count in most[_OWNERS:])
        named.append({"name": f"{len(most) - _OWNERS} others", "photographs": others})
    return dict(sorted(licences.items())), named


def take_model(folder: Path, folded: Graph, weights: Weights) -> dict[str, Any]:
    """Rename the converter's files in ``folder`` after their hash; returns entry ``model`` of a manifest."""
    topology = json.loads(_taken(folder / tfjs.MODEL_FILE))
    for group in topology["weightsManifest"]:
        group["paths"] = [add(folder, "weights", ".bin", _taken(folder / path)) for path in group["paths"]]
    operations = Counter(node["op"] for node in topology["modelTopology"]["node"])
    operations = Counter({op: count for op, count in operations.items() if op not in tfjs.FREE})
    return {
        "file": add(folder, "model", ".json", json_bytes(topology)),
        "nodes": sum(operations.values()),
        "operations": dict(operations),
        "macs": execution.macs(folded, weights),
        "parameters": sum(array.size for array in weights.values()),
    }


def _taken(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def add(folder: Path, stem: str, ending: str, content: bytes) -> str:
    """Write a file named after the first digits of its hash, so that it may be cached for ever; returns the name."""
    name = f"{stem}-{sha256(content)[:8]}{ending}"
    (folder / name).write_bytes(content)
    return name


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    """Entry ``files`` of a manifest: all files in ``folder`` now, by name, with "bytes" and "sha256"."""
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    return {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in contents.items()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, about: Mapping[str, Any], key: manifest.PrivateKey | None) -> None:
    """Write bundle.json, and its signature if there is a key."""
    (folder / FILE).write_bytes(json_bytes(about) + b"\n")
    manifest.sign(folder / FILE, key)


def json_bytes(value: Any) -> bytes:
    """Encode JSON in as few bytes as possible; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
