"""Source inat2021: the iNaturalist competition sets (visipedia/inat_comp), 2021 and earlier.

``index.path`` holds train.json, train_mini.json or val.json beside the folders of the same names, or the folders alone:
their subfolders spell out the ranks. train_mini is a part of train and is left out where train is there. Photographs of
val are test photographs; train is dealt, observation by observation. There are no observation ids: photographs of one
person at one time and place are one observation.

Of 2017 there are names alone (train2017.json), of which binomials can be read; in 2018 and 2019 they are hidden behind
numbers. A JSON file is read as a whole: train.json with its 2.7 M photographs takes some 4 GB of memory.

Terms: non-commercial research; the photographs must not be passed on, so never push them to a public remote.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioclip_lite.sources import fields, places
from bioclip_lite.sources.folder import in_folder
from bioclip_lite.sources.folder_names import path_of
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.randomness import digest

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_PARTS = {"train": None, "train_mini": None, "val": "test"}  # part -> split
_JSON = re.compile(r"(train|train_mini|val)(20\d\d)?\.json")
_BINOMIAL = re.compile(r"[A-Z][\w-]+ [\w-]*[a-z][\w-]*( .+)?")


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], "the folder with train.json or train")
    listed = {match[1]: name for name in sorted(p.name for p in folder.iterdir()) if (match := _JSON.fullmatch(name))}
    parts = [part for part in _PARTS if part in listed or (folder / part).is_dir()]
    if "train" in parts and "train_mini" in parts:
        only_small = (folder / "train_mini").is_dir() and not (folder / "train").is_dir()
        parts.remove("train" if only_small else "train_mini")
    if not parts:
        raise UserError(
            f"params.yaml, index.path: {folder} has none of train, train_mini and val, nor their .json; it must be the "
            "folder in which the competition's archives were unpacked"
        )
    if (folder / "public_test").exists() or (folder / "public_test.json").exists():
        yield Reject("public_test", "no taxon", "the competition's test photographs have no labels")
    for part in parts:
        yield from _from_json(folder / listed[part], _PARTS[part]) if part in listed else _from_folders(folder, part)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _from_folders(folder: Path, part: str) -> Iterator[Sample | Reject]:
    for taxon in sorted(path.name for path in (folder / part).iterdir() if not places.hidden(path.name)):
        if len(taxon.split("_")) == 8 and (folder / part / taxon).is_dir():
            yield from in_folder(folder, f"{part}/{taxon}", path_of((taxon,)), _PARTS[part])
        else:
            detail = "not a folder named <number>_<Kingdom>_..._<epithet>, and no .json says what it is"
            yield Reject(places.shown(f"{part}/{taxon}"), "no taxon", detail)


def _from_json(file: Path, split: str | None) -> Iterator[Sample | Reject]:
    tables = _load(file)
    categories = _categories(file, tables["categories"])
    licences = {row.get("id"): _licence(row) for row in tables.get("licenses", [])}
    labels = {row.get("image_id"): row.get("category_id") for row in tables["annotations"]}
    for number, image in enumerate(tables["images"]):
        name = taxonomy.clean(image.get("file_name"))
        if name is None or not places.writable(name):
            yield Reject(f"{file.name}, image {number}", "missing file", "no file_name")
            continue
        if (category := categories.get(labels.get(image.get("id")))) is None:
            yield Reject(name, "no taxon", f"{file.name} has no annotation with a known category for it")
            continue
        path, common_name, verbatim, supercategory = category
        holder = _text(image.get("rights_holder"))
        key = key_of(name)
        yield Sample(
            key=key,
            locator=name,
            group=_observation(image, holder) or key,
            path=path,
            common_name=common_name,
            split=split,
            licence=licences.get(image.get("license")),
            attribution=holder,
            verbatim=verbatim,
            supercategory=supercategory,
        )


def _load(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        tables = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({error}); unpack or download it again") from None
    missing = {"images", "categories", "annotations"} - set(tables if isinstance(tables, dict) else ())
    if missing:
        raise UserError(
            f"{file} lacks {', '.join(sorted(missing))}; it is not a file of the competition's training data"
        )
    for name in ("images", "categories", "annotations", "licenses"):
        table = tables.get(name, [])
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise UserError(f"{file}: {name!r} is no list of objects; unpack or download the file again")
    return tables


def _categories(
    file: Path, rows: list[dict[str, Any]]
) -> dict[Any, tuple[taxonomy.Path, str | None, str | None, str | None]]:
    """Path, common name, name as it is written and supercategory, by category id."""
    found = {}
    for row in rows:
        names = {rank: _text(row.get(rank)) for rank in taxonomy.RANKS} | {
            "species": _text(row.get("specific_epithet"))
        }
        name = _text(row.get("name"))
        if not any(names.values()):
            names = {"species": name} if name and _BINOMIAL.fullmatch(name) else {}
        path = taxonomy.make_path(names)
        if taxonomy.label_rank(path) >= 0:
            common_name = _text(row.get("common_name"))
            found[row.get("id")] = path, common_name, name, _text(row.get("supercategory"))
    if not found:
        example = rows[0].get("name") if rows else "none"
        raise UserError(
            f"{file}: no category has ranks or a scientific name (the first is {example!r}); in the sets of 2018 and "
            "2019 names are hidden. Use the set of 2021, or add kingdom ... genus, specific_epithet to the categories"
        )
    return found


def _licence(row: dict[str, Any]) -> str | None:
    """The address, which is exact, for Creative Commons; otherwise the name."""
    name, address = fields.stated(_text(row.get("name"))), _text(row.get("url"))
    return address if address and ("creativecommons.org" in address or not name) else name


def _text(value: object) -> str | None:
    """A text, also from JSON with escapes that are no characters; None for the ways of writing "missing"."""
    text = taxonomy.clean(value)
    return text and places.shown(text)


def _observation(image: dict[str, Any], holder: str | None) -> str | None:
    """An id hashed from observer, time and place, so that it reveals none of them; None without observer or time."""
    date = _text(image.get("date"))
    if date is None or holder is None:
        return None
    return f"observation-{digest('inat', date, image.get('latitude'), image.get('longitude'), holder):016x}"
