"""Embed the taxa with other prompts, and the captions of test photographs, with the teacher's text tower.

The job of variant teacher writes it beside its answers, as further tensors of ``predictions``: "prompts" [P, T, D] and
one "captions <name>" [m, D] for each kind of text that photographs are retrieved by. ``probes`` reads them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioclip_lite.evaluation.predictions import Extra
from bioclip_lite.evaluation.variants import teacher_of
from bioclip_lite.models import teachers
from bioclip_lite.models.prompt_ensemble import body, embed_in_templates
from bioclip_lite.photographs.shards import ShardSet, shard_names
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.randomness import digest, drawn

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import TeacherVariant

# How many are easily found depends on how many there are to choose from, so their number is the same everywhere.
PHOTOGRAPHS = 1000


def texts_of(params: "TeacherVariant", data: Path, split: str, labels: Labels) -> dict[str, Extra]:
    """The further tensors of variant teacher; rows are unit vectors, float32.

    "prompts": the drawn taxa in each prompt, the pipeline's own first. Its about: "prompts", a list of [text type,
    templates]; "taxon_ids"; and "unnamed", how many of them have no common name, so that another stands for it.

    "captions <name>": the different captions of photographs drawn from the split. Its about: "keys" of the photographs;
    "captions", for each photograph the numbers of its own; "without", how many photographs have none.

    Raises:
        UserError: a file is missing, or the teacher is not that of the cache.
    """
    taxa = store.read_taxa(data / "logits" / "taxa.safetensors")
    teacher = teacher_of(data, taxa)
    teacher.model.to(machine.device())  # some thousands of texts
    found = {"prompts": _prompts(params, split, labels, taxa, teacher)}
    for name in params["retrieval"]:
        found[f"captions {name}"] = _captions(data, split, name, teacher)
    return found


def _prompts(
    params: "TeacherVariant", split: str, labels: Labels, taxa: store.Taxa, teacher: teachers.Teacher
) -> Extra:
    chosen = drawn_leaves(labels, split, params["prompts"]["taxa"])
    # As it was embedded for the pipeline: embedded again, in other company, its last bits would differ.
    own, _, templates = taxa.prompt.partition(" in ")
    names, texts = [(own, "openai" if templates else "plain")], [taxa.text[chosen]]
    for kind in params["prompts"]["types"]:
        prompts = [text_types.caption(labels.leaves[leaf], labels.common_names[leaf], kind) for leaf in chosen]
        for how in params["prompts"]["templates"]:
            if (kind, how) in names:
                continue
            names.append((kind, how))
            plain = how == "plain"
            texts.append(
                teachers.embed_texts(teacher, prompts) if plain else embed_in_templates(teacher, [*map(body, prompts)])
            )
            print(f"evaluate: {len(prompts)} taxa as {kind}, {how}, e.g. {prompts[0]!r}", flush=True)
    unnamed = sum(labels.common_names[leaf] is None for leaf in chosen)
    about = {"prompts": names, "taxon_ids": [labels.ids[leaf] for leaf in chosen], "unnamed": unnamed}
    return Extra(np.stack(texts), about)


def drawn_leaves(labels: Labels, split: str, count: int) -> list[int]:
    """Numbers of ``count`` leaves, or of all if there are fewer, ascending: those that photographs show come first."""
    shown = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa[split].to_pylist(), strict=True))
    order = sorted(range(len(labels.ids)), key=lambda leaf: (not shown[labels.ids[leaf]], _lot(labels.ids[leaf])))
    return sorted(order[:count])


def _lot(taxon: str) -> int:
    return digest("evaluate", "prompts", taxon)


def _captions(data: Path, split: str, name: str, teacher: teachers.Teacher) -> Extra:
    said = captions_of(data, shard_names(data, split), name)
    if said.keys() != set(ShardSet(data, split).keys):
        raise UserError(f"{data / 'caption'} and {data / 'shard'} list different photographs; run stage caption again")
    keys = sorted(key for key, texts in said.items() if texts)
    keys = sorted(keys[row] for row in drawn(keys, PHOTOGRAPHS, "evaluate", "retrieval"))
    if not keys:
        raise UserError(
            f"evaluate.retrieval names {name}, but data/caption has no such text of a photograph of split {split}; "
            "run stage caption, or take the name out"
        )
    numbers = {text: number for number, text in enumerate(dict.fromkeys(text for key in keys for text in said[key]))}
    about = {
        "keys": keys,
        "captions": [sorted({numbers[text] for text in said[key]}) for key in keys],
        "without": sum(not texts for texts in said.values()),
    }
    print(f"evaluate: {len(keys)} photographs with {len(numbers)} different texts {name}", flush=True)
    return Extra(teachers.embed_texts(teacher, list(numbers)), about)


def captions_of(data: Path, shards: Sequence[str], name: str) -> dict[str, list[str]]:
    """Captions of one text type or captioner by sample key; may be empty."""
    found: dict[str, list[str]] = {}
    for shard in shards:
        table = read_table(data / "caption" / f"{shard}.parquet")
        if name in table.column_names:
            table = table.select(["key", name])
        else:  # it describes photographs, not taxa
            table = read_table(data / "caption" / name / f"{shard}.parquet")
        for row in table.to_pylist():
            key = row.pop("key")
            found[key] = [text for text in row.values() if text]
    return found
