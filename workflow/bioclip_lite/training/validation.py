"""Measure a student on split val after each epoch of its training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioclip_lite.photographs import loading
from bioclip_lite.taxa import label_space
from bioclip_lite.teacher_cache.reader import CachedSplit
from bioclip_lite.training import distributed, losses
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
        leaves, self.below = label_space.leaves_below(data)
        number = {taxon: n for n, taxon in enumerate(leaves)}
        self.truth = torch.tensor([number.get(taxon, -1) for taxon in val.images.taxon_ids])
        self.own = distributed.part(len(val.images))
        self.replays = loading.Replays(val.images, preprocess, loading.plain_row)

    @torch.inference_mode()
    def __call__(self, text: torch.Tensor | None = None) -> dict[str, float]:
        """The figures, with the first teacher's taxon matrix or with another one, ``text`` (C, D)."""
        text = self.text if text is None else text
        plan = loading.chunks(range(self.own.start, self.own.stop))
        sums = torch.zeros(5, dtype=torch.float64)
        for rows, pixels in zip(plan, self.replays.batches([[(i, 0) for i in rows] for rows in plan]), strict=True):
            sums += self._sums(rows, self.predict(pixels), text)
        sums = distributed.add(sums)
        every = float(len(self.val.images))
        counts = torch.tensor([sums[4].item(), every, every, every], dtype=torch.float64)
        names = ["val_top1", "val_nll", "val_agreement", "val_cosine"][: 3 if self.control else 4]
        return dict(zip(names, (sums[:4] / counts).tolist(), strict=False))

    def _sums(self, rows: range, out: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """float64 (5,): right answers, nll, agreements, cosines and labels that are leaves, summed."""
        val, truth = self.val, self.truth[rows.start : rows.stop]
        target = torch.from_numpy(np.stack([val.target(i, 0) for i in rows])).to(out.device)
        logits = out if self.control else losses.taxon_logits(out, text, val.taxa[0].logit_scale)
        best = logits.argmax(-1).cpu()
        under = label_space.under(val.images.taxon_ids[rows.start : rows.stop], self.below, len(self.text))
        nll = losses.taxon_nll(logits, torch.from_numpy(under).to(out.device)).item() * len(out)
        cosine = 0.0 if self.control else F.cosine_similarity(out, target).double().sum().item()
        agreed = (best == (target @ self.text.T).argmax(-1).cpu()).sum().item()
        right, labelled = (best == truth).sum().item(), (truth >= 0).sum().item()
        return torch.tensor([right, nll, agreed, cosine, labelled], dtype=torch.float64)


def predictor(model: nn.Module, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's float32 outputs of pixels on any device, computed in a ``machine.number_format``."""
    device, dtype = machine.device(), machine.number_format(precision, model)

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        with machine.autocast(dtype):
            return model(pixels.to(device)).float()

    return predict
