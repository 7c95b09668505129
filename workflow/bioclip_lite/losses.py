"""Losses of teacher and student. All take float32 and return the mean over the batch as a scalar tensor."""

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


def affinity(student: torch.Tensor, teacher: torch.Tensor, text: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """KL divergence in nats from the teacher's to the student's distribution over the taxa.

    The affinity distillation of MobileCLIP (arXiv 2311.17049, equation 3) with the taxa of the label space in place of
    the captions of a batch, so it does not need large batches.

    Args:
        student, teacher: (b, D) embeddings of the same views; normalised here.
        text: (C, D) L2-normalised taxon matrix.
        logit_scale: the teacher's, exponentiated; one for both, since the student is used with the teacher's.
    """
    own = (logit_scale * F.normalize(student, dim=-1) @ text.T).log_softmax(-1)
    target = (logit_scale * F.normalize(teacher, dim=-1) @ text.T).log_softmax(-1)
    return F.kl_div(own, target, reduction="batchmean", log_target=True)


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
