"""Distil both towers of a student, that of photographs and that of captions."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.photographs.shards import shard_names
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store, synthetic_captions
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.texts import text_types
from bioclip_lite.training import accumulation, distributed, losses
from bioclip_lite.training.cached_batches import Batch, Captions, Views
from bioclip_lite.training.distillation import Distillation, Options
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_table
from bioclip_lite.utils.randomness import digest, uniform

Tokenizer = Callable[[list[str]], torch.Tensor]  # texts to int64 (t, context)


class TwoTowers(nn.Module):
    """The image tower and the text tower of a student, whose parameters learn together."""

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image, self.text = image, text


class TwoTowerDistillation(Distillation):
    """``Distillation`` of a student that answers captions as well.

    Each photograph with a label brings a caption of its taxon, in a text type drawn by hash, or, for the share
    ``options.synthetic_share`` of them, one that a captioner wrote of the photograph itself, as in MobileCLIP (arXiv
    2311.17049). To the losses of the photographs come those of ``losses.LOSSES`` that compare the captions of the
    batch.
    """

    def __init__(
        self,
        model: nn.Module,
        text_tower: nn.Module,
        tokenizer: Tokenizer,
        data: Path,
        options: Options,
        train: CachedSplit | None = None,
    ) -> None:
        """As ``Distillation``; reads logits/texts.safetensors too, and what is cached of ``options.captioners``.

        ``text_tower``: int64 tokens (t, context) to float32 (t, D), in the first teacher's space.
        """
        super().__init__(model, data, options, train)
        self.text_tower = text_tower.to(machine.device())
        self.model = TwoTowers(model, self.text_tower)
        self.captions = TaxonCaptions(data, tokenizer)
        synthetic = synthetic_captions.read_all(
            data,
            options.captioners,
            self._described_shards(),
            (shard.list_keys() for shard in self.photographs.train.images.shards),
            self.captions.cached.teacher,
        )
        self.photographs.taught.captions = DrawnCaptions(self.captions, synthetic, self.photographs.train, options)
        # A text tower is small: it computes in float32 unless another format is asked for.
        precision = "float32" if options.precision == "auto" else options.precision
        self.text_format = machine.number_format(precision, self.text_tower)

    def loss(self, batch: Batch) -> torch.Tensor:
        embedding = self.outputs(batch)
        return self.loss_of_photographs(embedding, batch) + self._loss_of_captions(embedding, batch)

    def _loss_of_captions(self, embedding: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The losses of the whole batch, the same in all processes, which embed a part of its captions each."""
        if batch.captions is None:
            return 0 * embedding.sum()
        options = self.options
        tokens, target = map(machine.moved, batch.captions)
        own = tokens[distributed.part(len(tokens))]  # may be none of them
        rows, parts = own if len(own) else tokens[:1], options.accumulation
        text = accumulation.in_parts(self.text_tower, self._read, rows, len(tokens), parts)[: len(own)]
        answers = losses.CaptionAnswers(
            embedding=distributed.gather(text, len(tokens)),
            target=target,
            image=distributed.gather(F.normalize(embedding, dim=-1), self.size),
            image_target=F.normalize(batch.targets[0], dim=-1),
            logit_scale=self.logit_scales[0],
        )
        return losses.weighted_sum(answers, options.weights)

    def _described_shards(self) -> list[str]:
        """The shards that captioners have described; those without labels, which follow them, have no captions."""
        return shard_names(self.data, "train") if self.options.captioners else []

    def _read(self, tokens: torch.Tensor) -> torch.Tensor:
        with machine.autocast(self.text_format):
            return self.text_tower(tokens).float()

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """The figures of ``Validation``, and val_text_top1: val_top1 with the student's own taxon matrix."""
        prompt = self.taxa[0].prompt.split()[0]  # the text type; templates may be named behind it
        text_type = prompt if prompt in self.captions.types else self.captions.types[-1]
        leaves = self.photographs.taught.leaves
        rows = [self._read(machine.moved(self.captions.of([(text_type, leaf)])[0])) for leaf in leaves]
        own_text = F.normalize(torch.cat(rows), dim=-1)
        return {**self.validation(), "val_text_top1": self.validation(own_text)["val_top1"]}

    def files(self) -> list[Path]:
        synthetic = [
            synthetic_captions.path(self.data, captioner, shard)
            for captioner in self.options.captioners
            for shard in self._described_shards()
        ]
        return [*super().files(), store.folder(self.data) / "texts.safetensors", *synthetic]


class DrawnCaptions:
    """The captions of the photographs of a batch that have a label, drawn by hash."""

    def __init__(
        self,
        captions: "TaxonCaptions",
        synthetic: list[list[synthetic_captions.ShardOfCaptions]],
        split: CachedSplit,
        options: Options,
    ) -> None:
        """``synthetic``: of each shard, the captions of every captioner."""
        self.captions, self.synthetic, self.split = captions, synthetic, split
        self.share, self.names = options.synthetic_share, (options.seed, options.stage, "caption")

    def __call__(self, epoch: int, views: Views) -> Captions | None:
        """(tokens int64 (t, context), the teacher's embeddings float32 (t, D)) of the distinct captions of a batch.

        None if no photograph has a label.
        """
        images, names = self.split.images, (*self.names, epoch)
        taxon_of = {i: taxon for i, _ in views if (taxon := images.taxon_id(i)) is not None}
        said = {i: caption for i in taxon_of if (caption := self._synthetic(i, *names))}
        named = [i for i in taxon_of if i not in said]
        parts = []
        if named:
            keys, taxa = map(images.key, named), [taxon_of[i] for i in named]
            parts.append(self.captions.draw(taxa, keys, *names))
        if said:
            texts = dict(said.values())
            embeddings = torch.from_numpy(np.stack([*texts.values()]).astype(np.float32))
            parts.append((self.captions.tokenizer([*texts]), embeddings))
        if not parts:
            return None
        tokens, target = (torch.cat(each) for each in zip(*parts, strict=True))
        return tokens, target

    def _synthetic(self, i: int, *names: object) -> tuple[str, np.ndarray] | None:
        """The synthetic caption of photograph i with the teacher's embedding; None if its taxon is to be named."""
        key = self.split.images.key(i)
        if uniform(*names, "synthetic", key) >= self.share:
            return None
        shard, row = self.split.images.locate(i)
        found = [caption for captions in self.synthetic[shard] for caption in captions.of(row)]
        return found[digest(*names, "which", key) % len(found)] if found else None


class TaxonCaptions:
    """Tokens and first-teacher embeddings of every taxon in each text type except lit."""

    def __init__(self, data: Path, tokenizer: Tokenizer) -> None:
        """Raises UserError if the captions were embedded by another teacher than the taxa."""
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
        self.types = [text_type for text_type in self.cached.types if text_type != "lit"]
        self.tokenizer = tokenizer
        self.tokens: dict[str, torch.Tensor] = {}

    def of(self, captions: Sequence[tuple[str, str]]) -> Captions:
        """(tokens int64 (t, context), the teacher's embeddings float32 (t, D)) of pairs of text type and taxon."""
        texts = [text_types.caption(*self.names[taxon], text_type) for text_type, taxon in captions]
        new = [text for text in dict.fromkeys(texts) if text not in self.tokens]
        if new:
            self.tokens |= zip(new, self.tokenizer(new), strict=True)
        row = self.cached.types.index
        rows = [self.cached.text[row(text_type), self.column[taxon]] for text_type, taxon in captions]
        embeddings = torch.from_numpy(np.stack(rows).astype(np.float32))
        return torch.stack([self.tokens[text] for text in texts]), embeddings

    def draw(self, taxa: Sequence[str], keys: Iterable[str], *names: object) -> Captions:
        """``of`` the distinct captions of some photographs, whose text types are drawn by a hash of names and key."""
        drawn = [self.types[digest(*names, key) % len(self.types)] for key in keys]
        return self.of(list(dict.fromkeys(zip(drawn, taxa, strict=True))))
