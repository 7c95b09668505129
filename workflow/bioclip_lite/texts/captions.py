"""The text types that a section ``caption`` of params.yaml names, and the captions of photographs under these names.

Beside text_types.TYPES there are ``com_<language>``, the user's templates, ``source``, the caption that the source has
of a photograph, and captioners: CoCa models whose captions describe a photograph, not its taxon.
"""

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bioclip_lite.taxa import taxonomy
from bioclip_lite.taxa.iconic_groups import supercategory
from bioclip_lite.texts import templates
from bioclip_lite.texts.text_types import TYPES, caption, draw_type
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table, require
from bioclip_lite.utils.randomness import digest

SOURCE = "source"  # empty where the source has no caption
_NOT_A_NAME = ("key", "taxon_id")  # columns that tables of captions have besides


def text_types(section: Mapping[str, Any]) -> tuple[str, ...]:
    """The text types in the order of the columns of data/caption/<shard>.parquet."""
    return *TYPES, *(f"com_{language}" for language in section["languages"]), *sorted(section["templates"]), SOURCE


def all_texts(
    description: Mapping[str, Any], section: Mapping[str, Any], lit_columns: Sequence[str]
) -> dict[str, str | None]:
    """A caption of every one of ``text_types`` for the description of a photograph in a shard.

    Descriptions of shards without languages lack "common_names"; ``com_<language>`` then says what ``com`` says
    of a taxon without a common name. ``source`` is None where the description has no "caption".
    """
    path, common_name = tuple(description["ranks"]), description["common_name"]
    abroad = description.get("common_names") or {}
    group = description.get("supercategory")
    texts: dict[str, str | None] = {kind: caption(path, common_name, kind, lit_columns, group) for kind in TYPES}
    for language in section["languages"]:
        texts[f"com_{language}"] = caption(path, abroad.get(language), "com")
    if section["templates"]:
        values: dict[str, str | None] = dict(zip(taxonomy.RANKS, path, strict=True))
        values["scientific_name"] = taxonomy.scientific_name(path)
        values["taxon"] = " ".join(name for name in path if name)
        values["common_name"] = common_name
        values["supercategory"] = group or supercategory(path)
        values |= {f"common_name_{language}": abroad.get(language) for language in section["languages"]}
        fields = _fields(section)
        for name, template in sorted(section["templates"].items()):
            texts[name] = templates.fill(templates.parse(template, fields, f"caption.templates.{name}"), values)
    texts[SOURCE] = description.get("caption")
    return texts


def _fields(section: Mapping[str, Any]) -> tuple[str, ...]:
    names = ["scientific_name", "taxon", "common_name", *(f"common_name_{code}" for code in section["languages"])]
    return *taxonomy.RANKS, "supercategory", *names


def problems(section: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Errors, one a line, in a section ``caption`` that fits the schema, and with the names in teacher.captions."""
    lines = []
    for name, template in sorted(section["templates"].items()):
        try:
            templates.parse(template, _fields(section), f"caption.templates.{name}")
        except UserError as error:
            lines.append(str(error))
    captioners = [captioner["name"] for captioner in section["captioners"]]
    names = [*text_types(section), *captioners]
    uses = Counter([*names, *_NOT_A_NAME])
    lines += [
        f"caption: the name {name} stands for {uses[name]} things; give the template or captioner another name"
        for name in sorted({*captioners, *section["templates"]})
        if uses[name] > 1
    ]
    for number, captioner in enumerate(section["captioners"]):
        if captioner["method"] == "beam" and captioner["captions"] > captioner["beams"]:
            lines.append(
                f"caption.captioners.{number} ({captioner['name']}): beam search with {captioner['beams']} beams gives "
                f"at most that many captions, not {captioner['captions']}; raise beams or lower captions"
            )
    return lines + unknown(section, wanted, "teacher.captions")


def unknown(section: Mapping[str, Any], wanted: Sequence[str], where: str) -> list[str]:
    """Errors, one a line, in names of text types and captioners that stand in the parameter ``where``."""
    names = [*text_types(section), *(captioner["name"] for captioner in section["captioners"])]
    lines = []
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            guess = f"; did you mean {near[0]}" if near else ""
            lines.append(f"{where} has unknown {name}{guess}; known are {', '.join(names)}")
    return lines


def synthetic(text_tower: Mapping[str, Any] | None) -> tuple[list[str], float]:
    """(captioners that a student's text tower learns from, their share), of ``distill.text_tower``; ([], 0) if none."""
    asked = (text_tower or {}).get("synthetic")
    return (asked["captioners"], asked["share"]) if asked else ([], 0.0)


def lit_columns(data: Path) -> list[str]:
    """The columns of the LiT sentence in the captions that the teacher has learned from."""
    import pyarrow.parquet as pq

    file = data / "caption" / "val-00000.parquet"
    metadata = pq.read_schema(require(file)).metadata or {}
    if b"lit_columns" not in metadata:
        raise UserError(f"{file} has no lit_columns in its metadata; run stage caption")
    columns: list[str] = json.loads(metadata[b"lit_columns"])
    return columns


def files_of_captions(data: Path, shards: Sequence[str], types: Sequence[str]) -> list[Path]:
    """The tables that ``Captions`` reads: those of the text types, and of the captioners among ``types``."""
    folder = data / "caption"
    folders = [folder, *(folder / name for name in types if (folder / name).is_dir())]
    return [folder / f"{shard}.parquet" for folder in folders for shard in shards]


class Captions:
    """The captions of some shards, in the order of their photographs.

    ``keys`` lists the photographs; ``types`` the names that captions are drawn from, text types and captioners.
    """

    def __init__(self, data: Path, shards: Sequence[str], types: Sequence[str]) -> None:
        """Raises UserError if a table is missing, or lacks one of ``types``, or ``source`` says nothing at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = data / "caption"
        here = set(pq.read_schema(require(folder / f"{shards[0]}.parquet")).names)
        plain = [name for name in types if name in here]
        # The scientific name stands in for an empty caption of a captioner or of the source.
        names = list(dict.fromkeys(["key", *plain, "sci"]))

        def table(sub: str, columns: list[str] | None = None) -> pa.Table:
            return pa.concat_tables(
                [read_table(folder / sub / f"{name}.parquet", columns) for name in shards]
            ).combine_chunks()

        texts = table("", names)
        if SOURCE in plain and texts[SOURCE].null_count == len(texts):
            raise UserError(
                f"the captions to learn from include {SOURCE}, but the source has no caption of any photograph; take "
                f"{SOURCE} out of teacher.captions, or use a source with captions, such as inat_captions"
            )
        self.types = list(types)
        self.keys: list[str] = texts["key"].to_pylist()
        self._texts = {name: [texts[name]] for name in names}
        self._plain = plain
        for name in types:
            if name in plain:
                continue
            written = table(name)
            if written["key"].to_pylist() != self.keys:
                raise UserError(f"{folder / name} and {folder} list different photographs; run stage caption again")
            self._texts[name] = [written[column] for column in written.column_names if column not in _NOT_A_NAME]

    def draw(self, seed: int, epoch: int, i: int) -> str:
        """The caption that photograph ``i`` is shown with in one epoch; does not depend on batch or worker."""
        name, key = draw_type(self.types, seed, epoch, self.keys[i]), self.keys[i]
        columns = self._texts[name]
        column = columns[digest("synthetic caption", seed, epoch, key) % len(columns)]
        text: str = column[i].as_py() or self._texts["sci"][0][i].as_py()
        return text

    def prompts(self) -> list[str]:
        """For each photograph the caption that names its taxon: that of the last text type, else ``sci``."""
        import pyarrow.compute as pc

        name = self._plain[-1] if self._plain else "sci"
        prompts: list[str] = pc.coalesce(self._texts[name][0], self._texts["sci"][0]).to_pylist()
        return prompts
