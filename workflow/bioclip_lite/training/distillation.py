"""The objectives of students: a student learns its teachers' cached answers, its control learns from labels alone.

A control whose classifier is the teacher's taxon matrix is a ``Distillation`` whose only loss is that over labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache.ensemble import FIRST
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import accumulation, distributed, losses, memory_format, streamed, trainer
from bioclip_lite.training.cached_batches import Batch, CachedBatches, check_caches, files_read
from bioclip_lite.training.validation import Validation, predictor
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(trainer.Options):
    """How a student is taught."""

    stage: str  # with seed, names the order of the photographs and their views
    job: str  # with stage, names the training
    preprocess: dict[str, Any]  # the student's; its size is the student's
    splits: tuple[str, ...] = ("train",)  # whose photographs to learn from
    teachers: tuple[str, ...] = (FIRST,)  # whose caches to learn from, the first of them in whose space
    temperature: float = 1.0  # divides the logits in the losses that compare distributions
    weights: losses.Weights = field(default_factory=losses.Weights)
    captioners: tuple[str, ...] = ()  # whose captions a text tower learns beside the names of taxa
    synthetic_share: float = 0.0  # of the photographs that bring such a caption


class Student(trainer.Objective):
    """The photographs, views, steps and validation that distillation and its control share.

    Each epoch shows every photograph of ``options.splits`` once, under one of its cached views. There is no selection:
    the last epoch counts.
    """

    options: Options

    def __init__(
        self, model: nn.Module, data: Path, options: Options, train: CachedSplit | None = None, *, control: bool
    ) -> None:
        """See ``Distillation`` and ``Control``."""
        self.name = f"{options.stage} {options.job}"
        self.options, self.data = options, data
        self.model = self.image_tower = model.to(machine.device())
        train = train or CachedSplit(data, options.splits, options.teachers)
        val = CachedSplit(data, "val", options.teachers)
        check_caches(data, train, val, options.teachers)
        names = (options.seed, options.stage)
        labels = control or bool(options.weights.labels)
        self.photographs = CachedBatches(
            data, train, options.preprocess, options.batch_size, options.shuffle_buffer, names, labels=labels
        )
        self.size, self.steps = self.photographs.size, self.photographs.steps
        trainer.check_split(self.size, options.accumulation, options.stage)
        self.taxa = train.taxa
        self.predict = predictor(model, options.precision)
        self._check_outputs(len(self.photographs.taught.leaves) if control else self.taxa[0].text.shape[1])
        self.validation = Validation(self.predict, data, val, options.preprocess, control=control)

    def _check_outputs(self, wanted: int) -> None:
        size = self.options.preprocess["size"]
        with torch.inference_mode():
            self.image_tower.eval()
            width = self.predict(torch.zeros(1, 3, size, size, device=machine.device())).shape[1]
        if width != wanted:
            raise UserError(
                f"the model gives {width} numbers, the cache in {self.data}/logits asks for {wanted}; the student "
                f"belongs to another teacher or list of taxa: train it again (snakemake --cores all distill)"
            )

    def batches(self, epoch: int, step: int) -> Iterator[Batch]:
        return self.photographs.batches(epoch, step)

    def outputs(self, batch: Batch) -> torch.Tensor:
        """float32, the image tower's outputs of this process's photographs of a batch."""
        parts = self.options.accumulation
        return accumulation.in_parts(self.image_tower, self.predict, batch.pixels, self.size, parts)

    def measure(self) -> dict[str, float]:
        return self.validation()

    def files(self) -> list[Path]:
        return files_read(self.data, self.options.splits, self.options.teachers)


class Distillation(Student):
    """A student learns from the teacher cache: the losses of ``losses.LOSSES`` between its and the teachers' answers.

    Targets are the teachers' embeddings of the view that the student is shown. Its logits are those of its embedding
    against the first teacher's taxon matrix, at the first teacher's logit scale.
    """

    def __init__(self, model: nn.Module, data: Path, options: Options, train: CachedSplit | None = None) -> None:
        """Move ``model`` to ``machine.device()``.

        Args:
            model: float32 (b, 3, size, size) to (b, D), the first teacher's D.
            data: the data folder; reads shard/, logits/, index/taxa.parquet.
            train: the photographs of ``options.splits`` with the caches of ``options.teachers``, if they are open
                already.

        Raises:
            UserError: the caches are of other teachers or photographs than stated, or of another width than the model.
        """
        super().__init__(model, data, options, train, control=False)
        device = machine.device()
        self.texts = [torch.from_numpy(taxa.text).to(device) for taxa in self.taxa]
        self.logit_scales = [taxa.logit_scale for taxa in self.taxa]
        nodes = label_space.rank_nodes(data)
        self.nodes, self.node_counts = torch.from_numpy(nodes).to(device), (nodes.max(1) + 1).tolist()

    def loss(self, batch: Batch) -> torch.Tensor:
        return self.loss_of_photographs(self.outputs(batch), batch)

    def loss_of_photographs(self, embedding: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The losses of this process's photographs, from the student's (b, D) ``embedding`` of them."""
        answers = losses.PhotographAnswers(
            embedding=embedding,
            logits=streamed.logits(embedding, self.texts[0], self.logit_scales[0]),
            targets=batch.own_targets,
            texts=self.texts,
            logit_scales=self.logit_scales,
            temperature=self.options.temperature,
            nodes=self.nodes,
            node_counts=self.node_counts,
            ranges=batch.ranges,
        )
        share = distributed.share_of_loss(len(embedding), self.size)
        return streamed.weighted_sum(answers, self.options.weights) * share


class Control(Student):
    """The control of every claim about distillation: same photographs, views and steps, but labels for a teacher."""

    def __init__(self, model: nn.Module, data: Path, options: Options, train: CachedSplit | None = None) -> None:
        """As ``Distillation``, with a ``model`` from float32 (b, 3, size, size) to (b, C), logits of the leaves."""
        super().__init__(model, data, options, train, control=True)

    def loss(self, batch: Batch) -> torch.Tensor:
        logits = self.outputs(batch)
        share = distributed.share_of_loss(len(logits), self.size)
        assert batch.ranges is not None
        return losses.taxon_nll(logits, losses.under(batch.ranges, logits.shape[1])) * share


def train(student: Student, *, checkpoint_file: Path | None = None) -> trainer.History:
    """Train a student, in place; all its towers end in eval mode on the CPU.

    Returns:
        ``trainer.fit``'s history, with the figures that ``Validation`` measures and, with a text tower, val_text_top1.
    """
    options = student.options
    machine.deterministic(options.seed, options.stage, "train")
    log = trainer.log_folder(student.data, options.stage, options.job)
    with memory_format.channels_last(student.image_tower):
        history = trainer.fit(student, log=log, checkpoint_file=checkpoint_file)
    student.model.to("cpu").eval()
    return history
