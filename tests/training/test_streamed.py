from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bioclip_lite.training import losses, streamed

B, C, D = 20, 97, 8
WEIGHTS = [
    losses.Weights(cosine=0.0),
    losses.Weights(cosine=0.0, affinity=0.0, ranks=1.0),
    losses.Weights(cosine=0.0, affinity=0.0, labels=1.0),
    losses.Weights(cosine=0.5, affinity=0.7, ranks=0.3, labels=2.0),
]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS = [F.normalize(drawn(1, C, D), dim=-1), F.normalize(drawn(2, C, 5), dim=-1)]
NODES = torch.stack([torch.arange(C) // size for size in (40, 10, 3)])
RANGES = torch.arange(B)[:, None] + torch.tensor([0, 1]) + torch.tensor([0, 30]) * (torch.arange(B) % 2)[:, None]


def answers(embedding: torch.Tensor, teachers: int, scale: float = 30.0) -> losses.PhotographAnswers:
    return losses.PhotographAnswers(
        embedding=embedding,
        logits=streamed.logits(embedding, TEXTS[0], scale),
        targets=[drawn(3, B, D), drawn(4, B, 5)][:teachers],
        texts=TEXTS[:teachers],
        logit_scales=[scale, 10.0][:teachers],
        temperature=1.7,
        nodes=NODES,
        node_counts=(NODES.max(1)[0] + 1).tolist(),
        ranges=RANGES,
    )


def value_and_gradient(weights: losses.Weights, teachers: int, scale: float = 30.0) -> Sequence[torch.Tensor]:
    embedding = drawn(5, B, D).requires_grad_()
    value = streamed.weighted_sum(answers(embedding, teachers, scale), weights)
    return value.detach(), *torch.autograd.grad(3 * value, embedding)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streamed.NUMBERS, "cpu", 150)
    monkeypatch.setattr(streamed, "_PHOTOGRAPHS", 7)


@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_in_blocks_losses_and_gradients_are_the_same(
    weights: losses.Weights, teachers: int, request: pytest.FixtureRequest
) -> None:
    at_once = value_and_gradient(weights, teachers)
    request.getfixturevalue("small_blocks")
    torch.testing.assert_close(value_and_gradient(weights, teachers), at_once, rtol=1e-4, atol=1e-5)


def test_in_blocks_gradients_stay_finite_where_probabilities_vanish(request: pytest.FixtureRequest) -> None:
    at_once = value_and_gradient(WEIGHTS[-1], 1, scale=400.0)
    request.getfixturevalue("small_blocks")
    in_blocks = value_and_gradient(WEIGHTS[-1], 1, scale=400.0)
    assert torch.isfinite(in_blocks[1]).all()
    torch.testing.assert_close(in_blocks, at_once, rtol=1e-3, atol=1e-2)


def test_the_best_taxon_and_the_labels_are_the_same_in_blocks(request: pytest.FixtureRequest) -> None:
    text = TEXTS[0].clone()
    text[50] = text[2]  # equal logits in two blocks
    own = 20 * torch.cat([drawn(6, B - 1, D), text[2:3]])
    at_once = streamed.best(own, text), streamed.label_nll(own, text, RANGES)
    assert torch.equal(at_once[0], (own @ text.T).argmax(-1)) and at_once[0][-1] == 2
    request.getfixturevalue("small_blocks")
    in_blocks = streamed.best(own, text), streamed.label_nll(own, text, RANGES)
    torch.testing.assert_close(in_blocks, at_once)


class Largest(TorchDispatchMode):
    """The most numbers of a tensor that an operation makes, views aside."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        sizes = [x.numel() for x in made if x.untyped_storage().data_ptr() not in given]
        self.numbers = max([self.numbers, *sizes])
        return out


@pytest.mark.usefixtures("small_blocks")
def test_no_tensor_has_the_size_of_photographs_times_taxa() -> None:
    with Largest() as largest:
        value_and_gradient(WEIGHTS[-1], 1)
        streamed.best(drawn(5, B, D), TEXTS[0])
        streamed.label_nll(drawn(5, B, D), TEXTS[0], RANGES)
    # A block of logits, the embeddings of a batch, or the nodes of some photographs.
    assert 100 < largest.numbers <= max(150, B * D, 7 * (C // 3 + 1)) < B * C / 5
