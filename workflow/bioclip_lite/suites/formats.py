"""Formats of test sets on disk. Each function reads a folder; UserError if it has another format."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bioclip_lite.sources import clip_benchmark, delimited, folder_names, places, rows, tars
from bioclip_lite.sources.sample import Reject, Sample
from bioclip_lite.suites import biotrove, imagenet
from bioclip_lite.suites.common import class_folders, classes_of, names_in, photographs_in, reader, table
from bioclip_lite.suites.suite import Class, Photograph, Suite
from bioclip_lite.taxa import taxonomy
from bioclip_lite.utils.errors import UserError

_TEMPLATES = "zeroshot_classification_templates.txt"
_PAIR = ("file", "species", "confused_with")


def folder(root: Path) -> Suite:
    """One subfolder per class, named as the class or, in classnames.txt, line by line in the order of the folders."""
    folders = class_folders(root)
    names_file = root / "classnames.txt"
    names = names_in(names_file) if names_file.is_file() else list(map(folder_names.spoken, folders))
    if len(names) != len(folders):
        order = "numbers" if folders[0].isdecimal() else "the alphabet"
        raise UserError(
            f"{names_file} has {len(names)} lines for {len(folders)} subfolders; line i names the i-th, in the order "
            f"of {order}"
        )
    files, rejects = photographs_in(root, folders)
    return Suite(
        classes=classes_of(names, root),
        photographs=[Photograph(file, (number,), number, folders[number]) for file, number in files],
        rejects=rejects,
        read=reader(root),
        rules="one of the names of all subfolders",
        templates=_templates([root]),
    )


def webdataset(root: Path) -> Suite:
    """CLIP_benchmark's form: test/*.tar, or *.tar; the number in <key>.cls is a line of classnames.txt, from 0."""
    part = "test" if (root / "test").is_dir() else "."
    names = clip_benchmark.class_names(root)
    photographs: list[Photograph] = []
    rejects: list[Reject] = []
    for shard in clip_benchmark.shards(root, part):
        for group in tars.groups(root, shard):
            found = group if isinstance(group, Reject) else clip_benchmark.labelled(root, group, len(names))
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                locator, number = found
                photographs.append(Photograph(locator, (number,), number, names[number]))
    return Suite(
        classes=classes_of(names, root / "classnames.txt"),
        photographs=photographs,
        rejects=rejects,
        read=reader(root),
        rules="one of the names in classnames.txt",
        templates=_templates([root, root.resolve().parent]),
    )


def metadata(root: Path) -> Suite:
    """BioCLIP's form: metadata.csv, whose rows name a file and its class or ranks (Rare Species and others)."""
    classes: dict[object, tuple[int, Class]] = {}  # by path, or by name
    labelled: list[tuple[Sample, int]] = []
    rejects: list[Reject] = []
    for item in rows.photographs(table(root, "metadata.csv")):
        if isinstance(item, Reject):
            rejects.append(item)
        elif (shown := _class_of(item)) is None:
            rejects.append(Reject(item.locator, "no taxon", "its row names neither a taxon nor a class"))
        else:
            # rows of one taxon may differ in its common name: the first one counts
            number, _ = classes.setdefault(shown.path or shown.name, (len(classes), shown))
            labelled.append((item, number))
    observed = any(sample.group != sample.key for sample, _ in labelled)
    return Suite(
        classes=[shown for _, shown in classes.values()],
        photographs=[
            Photograph(sample.locator, (number,), number, sample.group if observed else str(number))
            for sample, number in labelled
        ],
        rejects=rejects,
        read=reader(root),
        rules="one of all classes in metadata.csv",
        cluster="observation" if observed else "class",
        templates=_templates([root]),
    )


def _class_of(sample: Sample) -> Class | None:
    if taxonomy.label_rank(sample.path) >= 0:
        return Class(sample.verbatim or taxonomy.scientific_name(sample.path), sample.path, sample.common_name)
    return Class(sample.common_name) if sample.common_name else None


def pairs(root: Path) -> Suite:
    """pairs.csv: a photograph, its species, and one that it is taken for; two names, of which one is right."""
    file = table(root, "pairs.csv")
    lines = delimited.rows(file)
    header = [name.strip().lower() for name in next(lines)[1]]
    missing = [column for column in _PAIR if column not in header]
    if missing:
        raise UserError(
            f"{file} lacks the column {', '.join(missing)}; it needs {', '.join(_PAIR)}, and may have observation; its "
            f"columns: {', '.join(header) or 'none'}"
        )
    locate = places.locator_in(root)
    listed: list[dict[str, str]] = []
    rejects: list[Reject] = []
    for number, values in lines:
        row = dict(zip(header, map(str.strip, values), strict=False))
        if len(values) != len(header) or not all(row[column] for column in _PAIR) or row[_PAIR[1]] == row[_PAIR[2]]:
            what = f"a file and two names that differ are needed: {', '.join(values)}"
            rejects.append(Reject(f"{file.name}, line {number}", "bad row", what))
        else:
            listed.append({**row, "file": locate(row["file"])})
    names = list(dict.fromkeys(row[column] for row in listed for column in _PAIR[1:]))
    number_of = {name: number for number, name in enumerate(names)}
    observed = any(row.get("observation") for row in listed)
    return Suite(
        classes=classes_of(names, file),
        photographs=[_pair(row, number_of, observed) for row in listed],
        rejects=rejects,
        read=reader(root),
        rules="which of two names, the right one and one that it is mistaken for; a draw counts half",
        question="choice",
        cluster="observation" if observed else "class",
        templates=_templates([root]),
    )


def _pair(row: Mapping[str, str], number_of: Mapping[str, int], observed: bool) -> Photograph:
    file, right, wrong = (row[column] for column in _PAIR)
    own = number_of[right]
    group = (row.get("observation") or file) if observed else right
    return Photograph(file, (own,), own, group, (own, number_of[wrong]))


def _templates(folders: list[Path]) -> tuple[str, ...]:
    """The set's own templates: lines with {c} where the name belongs, as CLIP_benchmark writes them."""
    file = next((folder / _TEMPLATES for folder in folders if (folder / _TEMPLATES).is_file()), None)
    if file is None:
        return ()
    lines = tuple(line for line in names_in(file) if line)
    bad = [line for line in lines if "{c}" not in line]
    if bad:
        raise UserError(f"{file}: {bad[0]!r} has no {{c}}, where the name of the class belongs")
    return lines


FORMATS: dict[str, Callable[[Path], Suite]] = {
    "folder": folder,
    "webdataset": webdataset,
    "metadata": metadata,
    "pairs": pairs,
    "biotrove": biotrove.biotrove,
    "imagenet": imagenet.subset,
    "imagenet_v2": imagenet.whole,
    "imagenet_o": imagenet.anomalies,
    "objectnet": imagenet.objectnet,
}


def find_format(name: str) -> Callable[[Path], Suite]:
    """The function that reads a format. Raises UserError for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"evaluate.suites: there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]
