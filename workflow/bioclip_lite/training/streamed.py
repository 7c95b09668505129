"""The losses of a student, and what it answers best, where photographs times taxa are too many numbers at once.

Photographs and taxa go by in blocks. The gradients of the losses by the logits are known in closed form once the
distributions are normalised, so a second pass over the taxa adds up loss and gradient together, and nothing of the size
of the logits waits for the backward pass (as in arXiv 2411.09009 for cross entropy).
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from bioclip_lite.training import losses
from bioclip_lite.training.losses import PhotographAnswers, Weights

# Logits at once. About eight times their memory is taken; a processor keeps few in its cache, a GPU idles between few.
NUMBERS = {"cpu": 2**20, "gpu": 2**25}
_PHOTOGRAPHS = 128  # at once: their sums over genera, families ... are kept


def logits(embedding: torch.Tensor, text: torch.Tensor, logit_scale: float) -> torch.Tensor | None:
    """``losses.taxon_logits`` of a batch for ``weighted_sum``; None if they are more than one block."""
    return losses.taxon_logits(embedding, text, logit_scale) if _fits(embedding, text) else None


def weighted_sum(answers: PhotographAnswers, weights: Weights) -> torch.Tensor:
    """``losses.weighted_sum``, in memory that does not grow with photographs times taxa.

    Value and gradient are the same up to rounding. A batch with ``logits`` is computed by ``losses.weighted_sum``.
    """
    if answers.logits is not None:
        return losses.weighted_sum(answers, weights)
    own = answers.logit_scales[0] * F.normalize(answers.embedding, dim=-1)
    others = losses.weighted_sum(answers, replace(weights, affinity=0.0, ranks=0.0, labels=0.0))
    return others + _OverTaxa.apply(own, answers, weights)


def label_nll(own: torch.Tensor, text: torch.Tensor, ranges: torch.Tensor) -> torch.Tensor:
    """``losses.taxon_nll`` of the logits ``own`` (b, D) times ``text`` (C, D), of ``losses.under`` the ``ranges``."""
    if _fits(own, text):
        return losses.taxon_nll(own @ text.T, losses.under(ranges, len(text)))
    every, labelled = _label_sums(own, text, ranges)
    return (every - labelled).mean()


def best(own: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """int64 (b,): the taxon of the highest logit, ``own`` (b, D) times ``text`` (C, D), the first of equal ones."""
    highest, found = own.new_full((len(own),), -torch.inf), torch.zeros(len(own), dtype=torch.int64, device=own.device)
    for part in _blocks(own, text):
        logits = own @ text[part].T
        here = logits.argmax(-1)
        value = logits.gather(1, here[:, None])[:, 0]
        found = torch.where(value > highest, here + part.start, found)
        highest = torch.maximum(value, highest)
    return found


def _fits(own: torch.Tensor, text: torch.Tensor) -> bool:
    return len(own) * len(text) <= _numbers(own)


def _numbers(own: torch.Tensor) -> int:
    return NUMBERS["cpu" if own.device.type == "cpu" else "gpu"]


def _blocks(own: torch.Tensor, text: torch.Tensor) -> Iterator[slice]:
    """Slices of the taxa of ``text`` whose logits for the photographs ``own`` are computed at once."""
    size = max(1, _numbers(own) // len(own))
    return (slice(start, min(start + size, len(text))) for start in range(0, len(text), size))


class _OverTaxa(torch.autograd.Function):
    """The weighted affinity, ranks and labels of a batch, with their gradient by the student's scaled embeddings."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, answers: PhotographAnswers, weights: Weights) -> torch.Tensor:
        total, gradient = own.new_zeros(()), torch.zeros_like(own)
        for start in range(0, len(own), _PHOTOGRAPHS):
            rows = slice(start, start + _PHOTOGRAPHS)
            some = _Photographs(own[rows], rows, answers, weights)
            total += _add(some, gradient[rows])
        ctx.save_for_backward(gradient / len(own))
        return total / len(own)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return upstream * ctx.saved_tensors[0], None, None


@dataclass(frozen=True)
class _Photographs:
    """Some photographs of a batch."""

    own: torch.Tensor  # (r, D), the student's embeddings, L2-normalised, times the logit scale
    rows: slice  # in the batch
    answers: PhotographAnswers
    weights: Weights

    @functools.cached_property
    def softened(self) -> torch.Tensor:
        """(r, D): ``own`` over the temperature."""
        return self.own / self.answers.temperature

    @functools.cached_property
    def taught(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of each teacher: embeddings like ``softened``; (r,) the log of the sum of the exponentials of its logits."""
        answers = self.answers
        scaled = [
            scale * F.normalize(target[self.rows], dim=-1) / answers.temperature
            for target, scale in zip(answers.targets, answers.logit_scales, strict=True)
        ]
        return [(each, _log_sums(each, text)) for each, text in zip(scaled, answers.texts, strict=True)]

    def agreed(self, part: slice) -> torch.Tensor:
        """(r, block): ``losses.agreed`` of the taxa of a block."""
        pairs = zip(self.taught, self.answers.texts, strict=True)
        each = [(scaled @ text[part].T).sub_(every[:, None]) for (scaled, every), text in pairs]
        return each[0] if len(each) == 1 else torch.stack(each).logsumexp(0) - math.log(len(each))

    @property
    def ranges(self) -> torch.Tensor:
        assert self.answers.ranges is not None
        return self.answers.ranges[self.rows]


def _log_sums(own: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(r,): logsumexp of the logits over all taxa."""
    return functools.reduce(torch.logaddexp, ((own @ text[part].T).logsumexp(1) for part in _blocks(own, text)))


def _label_sums(own: torch.Tensor, text: torch.Tensor, ranges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(r,) each: logsumexp of the logits over all taxa, and over those of each photograph's label."""
    every, labelled = (own.new_full((len(own),), -torch.inf) for _ in range(2))
    for part in _blocks(own, text):
        logits = own @ text[part].T
        every = torch.logaddexp(every, logits.logsumexp(1))
        outside = ~losses.under(ranges - part.start, logits.shape[1])
        labelled = torch.logaddexp(labelled, logits.masked_fill_(outside, -torch.inf).logsumexp(1))
    return every, labelled


def _add(some: _Photographs, gradient: torch.Tensor) -> torch.Tensor:
    """Add the gradients of some photographs' losses to ``gradient`` (r, D); the sum of their losses, a scalar."""
    total = gradient.new_zeros(())
    if some.weights.affinity or some.weights.ranks:
        total += _add_distributions(some, gradient)
    if some.weights.labels:
        total += _add_labels(some, gradient)
    return total


def _add_labels(some: _Photographs, gradient: torch.Tensor) -> torch.Tensor:
    text, weight = some.answers.texts[0], some.weights.labels
    every, labelled = _label_sums(some.own, text, some.ranges)
    for part in _blocks(some.own, text):
        logits = some.own @ text[part].T
        inside = losses.under(some.ranges - part.start, logits.shape[1])
        own = (logits - labelled[:, None]).masked_fill_(~inside, -torch.inf).exp_()
        gradient.addmm_(logits.sub_(every[:, None]).exp_().sub_(own), text[part], alpha=weight)
    return weight * (every - labelled).sum()


def _add_distributions(some: _Photographs, gradient: torch.Tensor) -> torch.Tensor:
    text, temperature, weight = some.answers.texts[0], some.answers.temperature, some.weights.affinity
    every = _log_sums(some.softened, text)
    total = gradient.new_zeros(())
    ranks = _node_ratios(some, every) if some.weights.ranks else []
    if ranks:
        total += some.weights.ranks * torch.stack([value for value, _ in ranks]).mean()
    for part in _blocks(some.own, text):
        log_q = (some.softened @ text[part].T).sub_(every[:, None])
        slope = torch.zeros_like(log_q)
        for (_, ratio), node in zip(ranks, some.answers.nodes, strict=bool(ranks)):
            # Of a leaf, the share that its node has too much of: q - P q / Q, without dividing by what vanishes.
            excess = log_q.exp().sub_(ratio[:, node[part]].add_(log_q).exp_())
            slope.add_(excess, alpha=some.weights.ranks / len(ranks))
        if weight:
            log_p = some.agreed(part)
            p = log_p.exp()
            total += weight * (log_p.sub_(log_q).mul_(p)).sum()
            slope.add_(log_q.exp_().sub_(p), alpha=weight)
        gradient.addmm_(slope, text[part], alpha=1 / temperature)
    return total


def _node_ratios(some: _Photographs, every: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each rank: the divergence summed over the photographs, and (r, nodes) log of teachers' over student's share.

    ``every``: (r,) logsumexp of the student's logits.
    """
    answers, text = some.answers, some.answers.texts[0]
    taught, own = ([some.own.new_full((len(every), n), -torch.inf) for n in answers.node_counts] for _ in range(2))
    for part in _blocks(some.own, text):
        log_p, log_q = some.agreed(part), (some.softened @ text[part].T).sub_(every[:, None])
        for node, p, q in zip(answers.nodes, taught, own, strict=True):
            _add_nodes(p, log_p, node[part])
            _add_nodes(q, log_q, node[part])
    ratios = [p - q for p, q in zip(taught, own, strict=True)]
    return [((p.exp_() * ratio).sum(), ratio) for p, ratio in zip(taught, ratios, strict=True)]


def _add_nodes(sums: torch.Tensor, log_p: torch.Tensor, node: torch.Tensor) -> None:
    """Add the probabilities of a block of taxa to those of their nodes, ``sums`` (r, nodes), both as logarithms.

    ``node``: int64, of each taxon of the block; in the order of the tree, in which nodes of a rank follow each other.
    """
    first, last = node[0].item(), node[-1].item()
    nodes = sums[:, int(first) : int(last) + 1]
    torch.logaddexp(nodes, losses.summed(log_p, node - first, nodes.shape[1]), out=nodes)
