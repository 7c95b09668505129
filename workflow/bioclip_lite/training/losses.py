"""Losses of teacher and student. All take float32 and return the mean over the batch as a scalar tensor.

They are written for all logits of a batch at once; ``streamed`` computes the same where these are too many.

``LOSSES`` is the table of those that a student learns from, ``Weights`` their weights. A new one takes a function, an
entry in the table and a weight here, the parameter of its weight in the schema, and a test.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch.nn import functional as F


def contrastive(
    image: torch.Tensor, text: torch.Tensor, same: torch.Tensor, logit_scale: torch.Tensor | float
) -> torch.Tensor:
    """CLIP's symmetric loss (arXiv 2103.00020) with several right answers.

    Every pair of one taxon counts as a match, with equal shares of the target: two photographs of a species in a
    batch, or two of its captions, are never each other's negatives.

    Args:
        image: (b, D) L2-normalised embeddings.
        text: (t, D) L2-normalised embeddings of the batch's distinct captions.
        same: bool (b, t), True where photograph and caption are of one taxon; no empty row or column.
        logit_scale: exponentiated; logits = logit_scale * cosine.
    """
    logits = logit_scale * image @ text.T
    target = same.float()
    image_to_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    text_to_image = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (image_to_text + text_to_image) / 2


def taxon_logits(embedding: torch.Tensor, text: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """(b, C) logits of the taxa: (b, D) embeddings, normalised here, against the L2-normalised taxon matrix (C, D)."""
    return logit_scale * F.normalize(embedding, dim=-1) @ text.T


def agreed(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log of the mean of several teachers' distributions, from the (b, C) logits of each.

    The mean is that of the probabilities, as in MobileCLIP (arXiv 2311.17049, section 3.2): teachers' temperatures and
    widths may differ.
    """
    together = torch.stack([each.log_softmax(-1) for each in logits]).logsumexp(0)
    return together - math.log(len(logits))


def affinity(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL divergence in nats from the teacher's to the student's distribution over the taxa.

    The affinity distillation of MobileCLIP (arXiv 2311.17049, equation 3) with the taxa of the label space in place of
    the captions of a batch, so it does not need large batches.

    Args:
        logits: (b, C) of the student, see ``taxon_logits``.
        target: (b, C) log-probabilities of the teachers, see ``agreed``.
    """
    return F.kl_div(logits.log_softmax(-1), target, reduction="batchmean", log_target=True)


def rank_affinity(
    logits: torch.Tensor, target: torch.Tensor, nodes: torch.Tensor, counts: Sequence[int]
) -> torch.Tensor:
    """``affinity`` of the distributions over genera, families ..., averaged over those ranks.

    Probabilities add up the tree, so a rank's distribution is that of the leaves summed by node.

    Args:
        logits, target: as in ``affinity``.
        nodes: int64 (ranks, C), the number of each leaf's node at each rank, from 0.
        counts: how many nodes each rank has.
    """
    own = logits.log_softmax(-1)
    ranks = zip(nodes, counts, strict=True)
    each = [affinity(summed(own, node, count), summed(target, node, count)) for node, count in ranks]
    return torch.stack(each).mean()


def summed(log_p: torch.Tensor, node: torch.Tensor, count: int) -> torch.Tensor:
    """(b, count) logarithms of the sums by ``node`` (C,) of probabilities, given as logarithms (b, C)."""
    index = node.expand_as(log_p)
    low = log_p.new_full((len(log_p), count), -torch.inf)
    highest = low.scatter_reduce(1, index, log_p.detach(), "amax")  # so that no sum underflows
    parts = (log_p - highest.gather(1, index)).exp()
    return torch.zeros_like(low).scatter_add(1, index, parts).log() + highest


def batch_affinity(
    image: torch.Tensor,
    text: torch.Tensor,
    teacher_image: torch.Tensor,
    teacher_text: torch.Tensor,
    logit_scale: torch.Tensor | float,
    teacher_scale: float,
) -> torch.Tensor:
    """MobileCLIP's distillation loss (arXiv 2311.17049, equation 3) for a student with two towers.

    KL divergence from the teacher's to the student's similarities between the photographs and the captions of a batch:
    the mean of each photograph over the captions and each caption over the photographs.

    Args:
        image, teacher_image: (b, D) and (b, D') L2-normalised embeddings of the same views.
        text, teacher_text: (t, D) and (t, D') L2-normalised embeddings of the same captions.
        logit_scale, teacher_scale: exponentiated.
    """
    own, taught = logit_scale * image @ text.T, teacher_scale * teacher_image @ teacher_text.T
    return (affinity(own, taught.log_softmax(-1)) + affinity(own.T, taught.T.log_softmax(-1))) / 2


def cosine(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity of (b, D) embeddings, in [0, 2].

    Unlike the mean squared error of CLIP-KD (arXiv 2307.12732) its size does not depend on D.
    """
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def taxon_nll(logits: torch.Tensor, under: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats where a label may be an inner node: -log of the summed probability of its leaves.

    Args:
        logits: (b, C) over the leaves.
        under: bool (b, C), the leaves under each photograph's taxon; no empty row. With one leaf per row this is
            ordinary cross entropy.
    """
    log_p = logits.log_softmax(-1)
    return -log_p.masked_fill(~under, -torch.inf).logsumexp(-1).mean()


def under(ranges: torch.Tensor, count: int) -> torch.Tensor:
    """bool (b, count): the leaves in each of the ``ranges``, int64 (b, 2): the first, and the one after the last."""
    leaf = torch.arange(count, device=ranges.device)
    return (ranges[:, :1] <= leaf) & (leaf < ranges[:, 1:])


# What a student learns from


@dataclass(frozen=True)
class Weights:
    """Weight of each loss of ``LOSSES``, by its name; a loss of weight 0 is not computed."""

    cosine: float = 1.0
    affinity: float = 1.0
    ranks: float = 0.0
    labels: float = 0.0
    captions: float = 1.0  # the only one without a parameter: a text tower always learns the teacher's embeddings
    batch_affinity: float = 0.0

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Weights":
        """The weights that section ``distill`` of params.yaml gives, those of a text tower in its ``text_tower``."""
        given = {**section, **(section["text_tower"] or {})}
        return cls(**{weight.name: given[weight.name] for weight in fields(cls) if weight.name in given})


@dataclass(frozen=True)
class PhotographAnswers:
    """Answers of a student and of K teachers to the b photographs that one process has of a batch."""

    embedding: torch.Tensor  # (b, D), the student's
    logits: torch.Tensor | None  # (b, C), the student's, see ``taxon_logits``; None where ``streamed`` does without
    targets: Sequence[torch.Tensor]  # K of (b, D'), each teacher's embeddings of the same views
    texts: Sequence[torch.Tensor]  # K of (C, D'), each teacher's taxon matrix
    logit_scales: Sequence[float]  # K
    temperature: float
    nodes: torch.Tensor  # int64 (ranks, C), the number of each leaf's node at each rank
    node_counts: Sequence[int]  # how many nodes each rank has
    ranges: torch.Tensor | None  # int64 (b, 2), the leaves under each taxon, see ``under``, where labels count

    @property
    def under(self) -> torch.Tensor:
        """bool (b, C): the leaves under each photograph's taxon."""
        assert self.ranges is not None
        return under(self.ranges, len(self.texts[0]))

    @property
    def softened(self) -> torch.Tensor:
        """(b, C): the student's logits, divided by the temperature.

        A softer distribution says more about similar species (arXiv 1503.02531). The losses are not multiplied by the
        square of the temperature: their weights are there for that.
        """
        assert self.logits is not None
        return self.logits / self.temperature

    @cached_property
    def agreed(self) -> torch.Tensor:
        """(b, C): ``agreed`` of the teachers' logits, divided by the temperature."""
        answers = zip(self.targets, self.texts, self.logit_scales, strict=True)
        return agreed([taxon_logits(*answer) / self.temperature for answer in answers])


@dataclass(frozen=True)
class CaptionAnswers:
    """Answers of student and first teacher to a whole batch: b photographs and their t distinct captions."""

    image: torch.Tensor  # (b, D), the student's embeddings, L2-normalised
    image_target: torch.Tensor  # (b, D), the teacher's, L2-normalised
    embedding: torch.Tensor  # (t, D), the student's embeddings of the captions
    target: torch.Tensor  # (t, D), the teacher's, L2-normalised
    logit_scale: float  # the teacher's, exponentiated, for both

    @property
    def text(self) -> torch.Tensor:
        """(t, D): the student's embeddings of the captions, L2-normalised."""
        return F.normalize(self.embedding, dim=-1)


Answers = TypeVar("Answers")


@dataclass(frozen=True)
class Loss(Generic[Answers]):
    """A loss of the student: what it compares, as a function of the ``answers`` it takes."""

    answers: type[Answers]
    value: Callable[[Answers], torch.Tensor]


# By the name of the weight, in ``Weights`` and in params.yaml. The order decides the last bits of the gradients.
LOSSES: dict[str, Loss[Any]] = {
    "cosine": Loss(PhotographAnswers, lambda x: cosine(x.embedding, x.targets[0])),
    "affinity": Loss(PhotographAnswers, lambda x: affinity(x.softened, x.agreed)),
    "ranks": Loss(PhotographAnswers, lambda x: rank_affinity(x.softened, x.agreed, x.nodes, x.node_counts)),
    "labels": Loss(PhotographAnswers, lambda x: taxon_nll(x.logits, x.under)),
    "batch_affinity": Loss(
        CaptionAnswers,
        lambda x: batch_affinity(x.image, x.text, x.image_target, x.target, x.logit_scale, x.logit_scale),
    ),
    "captions": Loss(CaptionAnswers, lambda x: cosine(x.embedding, x.target)),
}


def weighted_sum(answers: PhotographAnswers | CaptionAnswers, weights: Weights) -> torch.Tensor:
    """The sum of the losses of ``LOSSES`` that compare such answers, each times its weight; a scalar."""
    total = 0 * answers.embedding.sum()  # so that a student without any loss has gradients of 0
    for name, loss in LOSSES.items():
        if loss.answers is type(answers) and (weight := getattr(weights, name)):
            total = total + weight * loss.value(answers)
    return total
