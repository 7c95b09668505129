"""Make a bundle for another species list from a bundle, without training: one model, many field guides.

The files of the model stay as they are. The table of taxa is new: rows of taxa whose prompt is that of the bundle are
taken over bit by bit, all others are embedded by the text tower of the bundle's teacher. Temperature and thresholds are
fitted again on the calibration photographs whose labels are in the list; what the promise covers is in the report.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bioclip_lite.indexing import placing
from bioclip_lite.indexing.names import padded
from bioclip_lite.metrics import calibration
from bioclip_lite.models import identified, prompt_ensemble, teachers
from bioclip_lite.taxa.taxonomy import RANKS, label_rank, lineage, scientific_name
from bioclip_lite.taxa.taxonomy import Path as TaxonPath
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import replacing_folder, write_json
from bioclip_lite.web import budget, bundle, confidence, manifest, parts
from bioclip_lite.web.parent import Known, Parent, known_of_run, read_parent

if TYPE_CHECKING:
    from bioclip_lite.params import jobs


class Limits(NamedTuple):
    """Bytes of a table, as section convert has them; None: any."""

    taxa_bytes: int | None  # at most
    whole_table: int | None  # in one file


class Relisted(NamedTuple):
    """What a new bundle holds, and what is to be told of it."""

    leaves: list[TaxonPath]  # of the list, in tree order
    table: bundle.Table
    split: parts.Split | None  # of the table, where it is too large for one file
    certainty: dict[str, Any]  # entries "temperature", "thresholds" and "off_list" of bundle.json
    report: dict[str, Any]


def write_list(params: "jobs.OneList", file: str, data: Path) -> None:
    """Write data/convert/lists/<name>, tfjs and report.json, for a ``file`` in data/lists, from data/convert/tfjs.

    Raises:
        UserError: the list names fewer than two taxa or too many, or an input is missing or of another model.
    """
    key = manifest.read_private_key(params["sign_with"], data)
    species_list, out = data / "lists" / file, data / "convert" / "lists" / Path(file).stem
    parent, known = read_parent(data / "convert" / "tfjs"), known_of_run(data)
    placed = placing.read(species_list, known.names)
    budget.check(len(placed.leaves), parent.width, params["taxa_bytes"], params["over_budget"])
    teacher = partial(identified.load, str(data / "teacher" / "model"), None, data / "weights", parent.teacher)
    photographs = confidence.read(data / "convert" / confidence.FILE, parent.weights_sha256, parent.width)
    limits = Limits(params["taxa_bytes"], params["whole_table"])
    relisted = relist(parent, known, placed, teacher, photographs, limits)
    with replacing_folder(out / "tfjs", bundle.NAMES) as folder:
        about = write(folder, parent, relisted, species_list, key)
    write_json(out / "report.json", relisted.report | {"bytes": about["bytes"]})
    print("\n".join([*placing.warnings(placed), summary(relisted)]))


# The table


def relist(
    parent: Parent,
    known: Known,
    placed: placing.Placed,
    teacher: Callable[[], teachers.Teacher],
    photographs: confidence.Photographs | None,
    limits: Limits,
) -> Relisted:
    """Make the table of a list, and fit how certain answers among its taxa are.

    Args:
        teacher: loads the teacher of the bundle; not called if the bundle has a row for every prompt.
        photographs: of split calibration; without them there are no thresholds.

    Raises:
        UserError: the teacher is another, or the prompts of the bundle are not known.
    """
    names_of = {path: _names(path, known, placed) for path in placed.leaves}
    rows, new = _reused(parent, names_of)
    vectors = {path: store.decode(parent.integers[row], parent.scales[row]) for path, row in rows.items()}
    if new:
        vectors |= dict(zip(new, _embedded(parent, list(new.values()), teacher()), strict=True))
    vectors = {path: vectors[path] for path in placed.leaves}
    learned = confidence.nodes_of(path for path, count in known.photographs.items() if count)
    remarks = {path: _remark(path, parent, placed, learned) for path in placed.leaves}
    table = _with_rows(bundle.table_of(vectors, names_of, remarks, known.photographs, limits.taxa_bytes), parent, rows)
    fitted = _certainty(parent, table, parts.split(table, limits.whole_table), placed.leaves, photographs)
    report = {
        "taxa": {
            "listed": len(placed.leaves),
            "of_the_model": sum(path in known.names for path in placed.leaves),
            "rows": len(table.paths),
            "rows_taken_over": len(rows),
            "left_out": table.left_out,
            "representatives": table.representatives,
        },
        "unplaced": [
            {"line": match.entry.text, "candidates": list(match.candidates), "nearest": list(match.nearest)}
            for match in placed.unplaced
        ],
        "nearly": placed.nearly,
        "without_relatives": placed.without_relatives,
        "repeated": placed.repeated,
        "promise": fitted.promise,
        **({"parts": fitted.parts} if fitted.parts else {}),
    }
    return Relisted(placed.leaves, table, fitted.split, fitted.certainty, report)


def _names(path: TaxonPath, known: Known, placed: placing.Placed) -> dict[str, str]:
    """Common names by language: those of the list, and of the model for languages that the list does not give."""
    entry = placed.entries.get(path)
    said = {language or "en": name for language, name in (entry.languages if entry else ())}
    return dict(sorted({**known.names.get(path, {}), **said}.items()))


def _reused(
    parent: Parent, names_of: Mapping[TaxonPath, Mapping[str, str]]
) -> tuple[dict[TaxonPath, int], dict[TaxonPath, str]]:
    """(rows of the bundle's table by taxon, prompts of the taxa that have none there)."""
    rows, new = {}, {}
    number = {path: row for row, path in enumerate(parent.entries)}
    for path, common_names in names_of.items():
        entry, prompt = parent.entries.get(path), _prompt(parent, path, common_names)
        if entry is not None and _prompt(parent, path, entry["common_names"]) == prompt:
            rows[path] = number[path]
        else:
            new[path] = prompt
    return rows, new


def _prompt(parent: Parent, path: TaxonPath, common_names: Mapping[str, str]) -> str:
    """The caption of a taxon, of the type that the bundle's table was made with."""
    text = parent.about["text"]
    kind, _ = _prompt_type(parent)
    return text_types.caption(path, common_names.get("en"), kind, text.get("lit_columns", ()))


def _prompt_type(parent: Parent) -> tuple[str, bool]:
    text, where = parent.about["text"], parent.folder / bundle.FILE
    try:
        kind, openai = prompt_ensemble.parse_described(text["prompt"])
    except ValueError as error:
        raise UserError(f"{where} was made with {error}, which this version lacks; update it") from None
    if kind not in text_types.TYPES or (kind == "lit" and "lit_columns" not in text):
        raise UserError(
            f"{where} was made with prompt {text['prompt']!r} and does not say what it lists; make the bundle again "
            "with this version of bioclip-lite"
        )
    return kind, openai


def _embedded(parent: Parent, prompts: list[str], teacher: teachers.Teacher) -> np.ndarray:
    """Unit rows of new prompts, float32 (n, D)."""
    teacher.model.to(machine.device())
    rows = prompt_ensemble.embed_prompts(teacher, prompts, _prompt_type(parent)[1])
    if not np.isfinite(rows).all():
        raise UserError(f"teacher {teacher.about['name']} gives embeddings that are not finite numbers")
    return rows


def _with_rows(table: bundle.Table, parent: Parent, rows: Mapping[TaxonPath, int]) -> bundle.Table:
    """The table with the bundle's own rows bit by bit: coding their values again may change the last bit of a scale."""
    scales, integers = table.scales.copy(), table.integers.copy()
    for place, path in enumerate(table.paths):
        if path in rows:
            scales[place], integers[place] = parent.scales[rows[path]], parent.integers[rows[path]]
    return replace(table, scales=scales, integers=integers)


# The promise


class _Fitted(NamedTuple):
    """A new table as the calibration photographs show it."""

    certainty: dict[str, Any]  # temperature, thresholds and ``off_list`` of the new bundle
    promise: dict[str, Any]  # what it says and covers
    split: parts.Split | None
    parts: dict[str, Any] | None = None  # what loading only some of them does, where that was measured


def _certainty(
    parent: Parent,
    table: bundle.Table,
    divided: parts.Split | None,
    leaves: list[TaxonPath],
    photographs: confidence.Photographs | None,
) -> _Fitted:
    """Fit how certain answers are; without photographs all clades stay chosen, so answers are those of the table."""
    unfitted = {"temperature": parent.about["temperature"], "thresholds": None, "off_list": None}
    if photographs is None:
        why = "no calibration photographs were given"
        return _Fitted(unfitted, _no_promise(why, 0, 0, leaves, leaves), divided)
    rows = confidence.under(photographs.taxa, leaves, parent.entries.keys() - set(leaves))
    usable = confidence.affordable(confidence.chosen(photographs, rows), len(leaves))
    observations = len(calibration.first_of_each(usable.observations))
    without = _without_photographs(leaves, usable.taxa)
    if confidence.too_few(observations):
        why = f"{observations} observations of the list's taxa in split calibration are too few to show anything"
        return _Fitted(unfitted, _no_promise(why, len(usable.keys), observations, leaves, without), divided)
    divided, measured = parts.choose(table, divided, parent.about["logit_scale"], usable.embeddings)
    certainty = confidence.fit(table, parent.about["logit_scale"], usable, divided)
    covered = _coverage(len(usable.keys), observations, leaves, without)
    if not any(certainty["thresholds"]["ranks"].values()):
        why = "at no threshold are answers right often enough, so the model gives none"
        return _Fitted(certainty, {"holds": False, "why_not": why, **covered}, divided, measured)
    held = {name: certainty["thresholds"][name] for name in ("level", "confidence")}
    return _Fitted(certainty, {"holds": True, **held, **covered}, divided, measured)


def _no_promise(
    why: str, photographs: int, observations: int, leaves: list[TaxonPath], without: list[TaxonPath]
) -> dict[str, Any]:
    return {"holds": False, "why_not": why, **_coverage(photographs, observations, leaves, without)}


def _coverage(photographs: int, observations: int, leaves: list[TaxonPath], without: list[TaxonPath]) -> dict[str, Any]:
    return {
        "photographs": photographs,
        "observations": observations,
        "taxa": len(leaves) - len(without),
        "of_taxa": len(leaves),
        "taxa_without": [scientific_name(path) for path in without],
    }


def _without_photographs(leaves: list[TaxonPath], labels: list[TaxonPath]) -> list[TaxonPath]:
    """The leaves that no label is, or lies below."""
    seen = confidence.nodes_of(labels)
    return [leaf for leaf in leaves if next(lineage(leaf)) not in seen]


def summary(relisted: Relisted) -> str:
    """The new bundle in two sentences: its taxa, and its promise."""
    taxa, promise = relisted.report["taxa"], relisted.report["promise"]
    new = taxa["listed"] - taxa["of_the_model"]
    said = f"{taxa['listed']} taxa: {taxa['of_the_model']} of the model, {new} new, which the text tower alone names. "
    covered = (
        f"{promise['photographs']} photographs of {promise['observations']} observations and {promise['taxa']} of "
        f"{promise['of_taxa']} taxa"
    )
    if promise["holds"]:
        return said + (
            f"With {promise['confidence']:.0%} confidence at least {promise['level']:.0%} of the answers are right, to "
            f"photographs like those it was calibrated on: {covered}"
        )
    return said + f"Nothing is promised: {promise['why_not']} ({covered})"


# The files


def write(
    folder: Path, parent: Parent, relisted: Relisted, species_list: Path, key: manifest.PrivateKey | None
) -> dict[str, Any]:
    """Write the files of the new bundle, signed by ``key``, to an empty folder; returns its bundle.json."""
    about, table = parent.about, relisted.table
    for name in about["files"].keys() - set(parts.files(about)):
        (folder / name).write_bytes((parent.folder / name).read_bytes())
    written = parts.write(folder, table, relisted.split)
    text = {name: value for name, value in about["text"].items() if name != "parts"}
    files = bundle.listed(folder)
    new = {
        **about,
        **relisted.certainty,
        **written,
        "languages": table.languages(),
        "text": text | written["text"],
        "files": files,
        "bytes": sum(file["bytes"] for file in files.values()),
        "provenance": {
            **manifest.signed_anew(about["provenance"], key),
            "taxonomy_sha256": bundle.sha256(bundle.json_bytes(table.described)),
            "calibration_photographs": relisted.report["promise"]["photographs"],
            "relisted_from": parent.sha256,
            "species_list_sha256": bundle.sha256(species_list.read_bytes()),
        },
    }
    bundle.write_manifest(folder, new, key)
    return new


def _remark(path: TaxonPath, parent: Parent, placed: placing.Placed, learned: Collection[TaxonPath]) -> bundle.Remark:
    """What is told with a taxon: by the list, for it or for a taxon above it, or else by the bundle."""
    above = (padded(path, rank) for rank in range(label_rank(path), -1, -1) if path[rank])
    lines = [placed.entries[node] for node in above if node in placed.entries]
    of_bundle = parent.entries.get(path, {})
    finest = [line.finest_rank for line in lines if line.finest_rank] or [of_bundle.get("finest_rank", RANKS[-1])]
    note = next((line.note for line in lines if line.note), of_bundle.get("note"))
    return bundle.Remark(next(lineage(path)) not in learned, min(map(RANKS.index, finest)), note)
