"""Source inat_captions: tars of photographs with captions, such as iNat-Captions (Nakkab, Feuer and Hegde 2022).

``index.path`` is a folder with tars anywhere below it, also gzipped; a sample is an image and the text beside it,
000000.jpg and 000000.txt. The text is the caption of the photograph, word for word: text type ``source``, so that LiT
can be repeated on the captions it was made with.

A caption that has the form of LiT's sentence names the taxon: "A photo of the Buff-tailed Coronet Birds Boissonneaua
flavescens", with all seven ranks after the supercategory, or with the genus alone. What stands before the supercategory
is the common name; the supercategory gives the ranks down to the class. Of any other caption what it says is taken for
a common name, which a species list may know. Photographs whose taxon stays unknown are left out.

Photographs below a folder named val or test are test photographs. There are neither observations nor licences.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bioclip_lite.sources import fields, places, tars
from bioclip_lite.sources.sample import Reject, Sample, key_of
from bioclip_lite.taxa import iconic_groups, taxonomy
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import Origin

_HELD_OUT = ("val", "test")
_OPENING = re.compile(r"((an? )?photo of )?((an?|the) )?", re.IGNORECASE)
_GROUP = rf"(?:(?P<common_name>.+) )?(?P<group>{'|'.join(iconic_groups.NAMES)})"
_NAME = r"(?P<genus>[A-Z][\w-]+)(?: (?P<species>(?:[x\N{MULTIPLICATION SIGN}] )?[a-z][\w-]+))?"
_HIGHER = " ".join(rf"(?P<{rank}>[A-Z][\w-]+)" for rank in taxonomy.RANKS[:5])
_SENTENCES = (re.compile(rf"{_GROUP} {_HIGHER} {_NAME}"), re.compile(rf"{_GROUP} {_NAME}"))


def samples(params: "Origin") -> Iterator[Sample | Reject]:
    folder = places.require_folder(params["path"], "a folder with tars of photographs and captions")
    shards = tars.find(folder, tars.WITH_GZIPPED)
    if not shards:
        raise UserError(
            f"params.yaml, index.path: no .tar below {folder}; put the tars of photographs and captions there"
        )
    for shard in shards:
        split = "test" if set(PurePosixPath(shard).parts[:-1]) & set(_HELD_OUT) else None
        for group in tars.groups(folder, shard, places.seek_points(params)):
            yield group if isinstance(group, Reject) else _sample(group, split)


def read(params: "Origin", locator: str) -> bytes:
    return places.read(params, Path(params["path"]), locator)


def _sample(group: tars.Group, split: str | None) -> Sample | Reject:
    if group.image is None:
        return Reject(group.name, "missing file", f"no image among its parts: {', '.join(sorted(group.parts))}")
    caption = " ".join(group.texts.get("txt", "").split())
    if not caption:
        return Reject(group.name, "no taxon", "its caption is missing, empty or longer than 10,000 bytes")
    row = named(caption)
    key = key_of(group.name)
    return Sample(
        key=key,
        locator=group.image,
        group=key,
        path=fields.path_of(row),
        common_name=row.get("common_name"),
        split=split,
        verbatim=fields.verbatim(row),
        supercategory=row.get("supercategory"),
        caption=caption,
    )


def named(caption: str) -> fields.Row:
    """Ranks, common_name and supercategory that a caption states; of one in another form all is the common name."""
    said = _OPENING.sub("", caption, count=1).removesuffix(".")
    for sentence in _SENTENCES:
        if found := sentence.fullmatch(said):
            row: fields.Row = {**iconic_groups.ranks_of(found["group"]), "supercategory": found["group"]}
            return row | {name: value for name, value in found.groupdict().items() if value and name != "group"}
    return {"common_name": said or None}
