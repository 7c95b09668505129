"""Measure a student on split val after each epoch of its training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.photographs import loading
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import distributed, losses, streamed
from bioclip_lite.training.cached_batches import Taught
from bioclip_lite.utils import machine


class Validation:
    """Figures of a model, in eval mode on ``machine.device()``, on split val, shared among the processes.

    val_top1: share of photographs whose taxon is the best of all leaves, without those labelled above the leaves;
    val_nll: losses.taxon_nll, in nats; val_agreement: share whose best leaf is also the first teacher's; and, without
    ``control``, val_cosine to that teacher's embedding.
    """

    def __init__(
        self,
        predict: Callable[[torch.Tensor], torch.Tensor],
        data: Path,
        val: CachedSplit,
        preprocess: dict[str, Any],
        *,
        control: bool = False,
    ) -> None:
        """``predict``: a ``predictor``, of embeddings (b, D), or of logits (b, C) if it is a ``control``."""
        self.predict = predict
        self.val, self.control = val, control
        self.text = torch.from_numpy(val.taxa[0].text).to(machine.device())
        taught = Taught(val, data, labels=True)
        number = {taxon: n for n, taxon in enumerate(taught.leaves)}
        self.truth = torch.from_numpy(val.images.taxon_numbers(number)).to(machine.device())
        self.own = distributed.part(len(val.images))
        self.lessons = loading.Lessons(loading.Replays(val.images, preprocess, loading.plain_row), taught)

    @torch.inference_mode()
    def __call__(self, text: torch.Tensor | None = None) -> dict[str, float]:
        """The figures, with the first teacher's taxon matrix or with another one, ``text`` (C, D)."""
        text = self.text if text is None else text
        plan = loading.chunks(range(self.own.start, self.own.stop))
        views = ([(i, 0) for i in rows] for rows in plan)
        sums = torch.zeros(5, dtype=torch.float64, device=text.device)
        made = self.lessons.batches((own, (0, own, slice(None))) for own in views)
        for rows, (pixels, (targets, ranges, _)) in zip(plan, made, strict=True):
            out, target, ranges = self.predict(pixels), machine.moved(targets[0]), machine.moved(ranges)
            sums += self._sums(rows, out, text, target, ranges)
        sums = distributed.add(sums.cpu())
        every = float(len(self.val.images))
        counts = torch.tensor([sums[4].item(), every, every, every], dtype=torch.float64)
        names = ["val_top1", "val_nll", "val_agreement", "val_cosine"][: 3 if self.control else 4]
        return dict(zip(names, (sums[:4] / counts).tolist(), strict=False))

    def _sums(
        self, rows: range, out: torch.Tensor, text: torch.Tensor, target: torch.Tensor, ranges: torch.Tensor
    ) -> torch.Tensor:
        """float64 (5,): right answers, nll, agreements, cosines and labels that are leaves, summed."""
        truth = self.truth[rows.start : rows.stop]
        if self.control:
            best, nll = out.argmax(-1), losses.taxon_nll(out, losses.under(ranges, out.shape[1]))
        else:
            own = self.val.taxa[0].logit_scale * F.normalize(out, dim=-1)
            best, nll = streamed.best(own, text), streamed.label_nll(own, text, ranges)
        cosine = torch.zeros_like(nll) if self.control else F.cosine_similarity(out, target).double().sum()
        agreed = (best == streamed.best(target, self.text)).sum()
        right, labelled = (best == truth).sum(), (truth >= 0).sum()
        return torch.stack([value.double() for value in (right, nll.double() * len(out), agreed, cosine, labelled)])


def predictor(model: nn.Module, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's float32 outputs of pixels on its device, computed in a ``machine.number_format``."""
    dtype = machine.number_format(precision, model)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        with machine.autocast(dtype):
            return model(pixels).float()

    return predict
