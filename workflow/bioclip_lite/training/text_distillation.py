"""Distil the text tower of a student with two towers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.randomness import digest


@dataclass(frozen=True)
class TextStudent:
    """The text tower of a student with two."""

    tower: nn.Module  # int64 tokens (t, context) to float32 (t, D), in the first teacher's space
    tokenizer: Callable[[list[str]], torch.Tensor]
    batch_affinity: float  # weight of losses.batch_affinity


class TaxonCaptions:
    """What the first teacher makes of the taxa in every text type but lit, and the tokens of the same."""

    def __init__(self, data: Path, student: TextStudent) -> None:
        folder = store.folder(data)
        self.cached = store.read_texts(folder / "texts.safetensors")
        taxa = store.read_taxa(folder / "taxa.safetensors")
        if self.cached.teacher != taxa.teacher:
            raise UserError(
                f"{folder}/texts.safetensors was embedded by teacher {self.cached.teacher[:12]}, the taxa by "
                f"{taxa.teacher[:12]}; make the cache again: snakemake --cores all logits --forcerun embed_texts"
            )
        table = read_table(data / "index" / "taxa.parquet", columns=["taxon_id", *RANKS, "common_name"]).to_pylist()
        self.names = {row["taxon_id"]: (tuple(row[rank] for rank in RANKS), row["common_name"]) for row in table}
        self.column = {taxon: number for number, taxon in enumerate(self.cached.taxon_ids)}
        self.kinds = [kind for kind in self.cached.types if kind != "lit"]
        self.tokenizer = student.tokenizer
        self.known: dict[str, torch.Tensor] = {}

    def of(self, said: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens int64 (t, context), the teacher's embeddings float32 (t, D)) of pairs of text type and taxon."""
        texts = [text_types.caption(*self.names[taxon], kind) for kind, taxon in said]
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known |= zip(new, self.tokenizer(new), strict=True)
        taught = [self.cached.text[self.cached.types.index(kind), self.column[taxon]] for kind, taxon in said]
        rows = torch.from_numpy(np.stack(taught).astype(np.float32))
        return torch.stack([self.known[text] for text in texts]), rows

    def drawn(self, taxa: Sequence[str], keys: Sequence[str], *names: object) -> tuple[torch.Tensor, torch.Tensor]:
        """``of`` the distinct captions of some photographs, whose text types are drawn by hash."""
        kinds = [self.kinds[digest(*names, key) % len(self.kinds)] for key in keys]
        return self.of(list(dict.fromkeys(zip(kinds, taxa, strict=True))))


class TwoTowers(nn.Module):
    """Both towers of a student, to be trained as one."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text
