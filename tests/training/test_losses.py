import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bioclip_lite.training import losses
from bioclip_lite.utils.defaults import SCHEMA
from bioclip_lite.utils.files import parse_yaml


def units(seed: int, rows: int, width: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(seed=st.integers(0, 1000), batch=st.integers(1, 9), scale=st.floats(1, 100))
@settings(max_examples=30, deadline=None)
def test_contrastive_is_clips_loss_when_all_taxa_differ(seed: int, batch: int, scale: float) -> None:
    image, text = units(seed, batch), units(seed + 1, batch)
    logits = scale * image @ text.T
    labels = torch.arange(batch)
    clip = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert torch.isclose(losses.contrastive(image, text, torch.eye(batch, dtype=torch.bool), scale), clip, atol=1e-5)


def test_one_species_twice_in_a_batch_is_no_negative() -> None:
    text = units(0, 2)
    image = text[[0, 0, 1]]  # two photographs of the first species, each as good as can be
    same = torch.tensor([[True, False], [True, False], [False, True]])
    assert losses.contrastive(image, text, same, 1000.0) < math.log(2) / 2 + 1e-3
    # Two captions of one species: both are right answers, so no gradient pushes one of them away.
    captions = text[[0, 0, 1]].clone().requires_grad_()
    both = torch.tensor([[True, True, False], [False, False, True]])
    losses.contrastive(text, captions, both, 20.0).backward()
    assert captions.grad is not None
    assert torch.allclose(captions.grad[0], captions.grad[1])
    hard = torch.tensor([[True, False, False], [False, False, True]])
    wrong = text[[0, 0, 1]].clone().requires_grad_()
    logits = 20.0 * text @ wrong.T
    F.cross_entropy(logits, hard.int().argmax(1)).backward()
    assert wrong.grad is not None
    assert not torch.allclose(wrong.grad[0], wrong.grad[1])  # what a hard label does


@given(seed=st.integers(0, 1000), scale=st.floats(0.5, 100))
@settings(max_examples=30, deadline=None)
def test_affinity_is_a_divergence(seed: int, scale: float) -> None:
    student, teacher, text = units(seed, 5), units(seed + 1, 5), units(seed + 2, 11)
    target = losses.agreed([losses.taxon_logits(teacher, text, scale)])
    value = losses.affinity(losses.taxon_logits(3 * student, text, scale), target)
    log_p = (scale * teacher @ text.T).double().log_softmax(-1)
    log_q = (scale * student @ text.T).double().log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    assert torch.isclose(value.double(), expected, rtol=1e-3, atol=1e-4)
    assert value >= -1e-5
    assert losses.affinity(losses.taxon_logits(7 * teacher, text, scale), target).abs() < 1e-4


def test_teachers_of_any_width_and_scale_agree_on_the_mean_of_their_probabilities() -> None:
    first = losses.taxon_logits(units(0, 5), units(1, 11), 50.0)
    second = losses.taxon_logits(units(2, 5, width=4), units(3, 11, width=4), 7.0)
    mean = (first.softmax(-1) + second.softmax(-1)) / 2
    torch.testing.assert_close(losses.agreed([first, second]).exp(), mean)
    assert losses.affinity(first, losses.agreed([first, second])) > 0


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_rank_affinity_is_the_divergence_of_summed_probabilities(seed: int) -> None:
    logits, other = (9 * torch.randn(6, 8, generator=torch.Generator().manual_seed(seed + n)) for n in range(2))
    target = other.log_softmax(-1)
    nodes = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 2, 2, 2]])
    p = torch.stack([target.exp()[:, nodes[1] == n].sum(1) for n in range(3)], 1)
    log_q = torch.stack([logits.log_softmax(-1)[:, nodes[1] == n].logsumexp(1) for n in range(3)], 1)
    expected = F.kl_div(log_q, p, reduction="batchmean") / 2  # at the root both are sure
    torch.testing.assert_close(losses.rank_affinity(logits, target, nodes, [1, 3]), expected, rtol=1e-3, atol=1e-5)
    leaves = torch.arange(8)[None]
    torch.testing.assert_close(
        losses.rank_affinity(logits, target, leaves, [8]), losses.affinity(logits, target), rtol=1e-3, atol=1e-4
    )
    # A teacher that knows the genus and no more is met by a student that knows the genus.
    assert losses.rank_affinity(logits, target, nodes, [1, 3]) <= losses.affinity(logits, target) + 1e-4


def test_rank_affinity_has_gradients_where_probabilities_vanish() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[-150.0, 0.0, -150.0]]).log_softmax(-1)
    losses.rank_affinity(logits, target, torch.tensor([[0, 0, 1]]), [2]).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_batch_affinity_is_nothing_for_the_teacher_itself_and_symmetric() -> None:
    image, text = units(0, 6), units(1, 4)
    other_image, other_text = units(2, 6), units(3, 4)
    assert losses.batch_affinity(image, text, image, text, 30.0, 30.0).abs() < 1e-5
    value = losses.batch_affinity(image, text, other_image, other_text, 30.0, 60.0)
    swapped = losses.batch_affinity(text, image, other_text, other_image, 30.0, 60.0)
    torch.testing.assert_close(value, swapped)
    assert value > 0.1


@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_cosine_ignores_length_and_lies_between_0_and_2(seed: int, factor: float) -> None:
    a, b = units(seed, 4), units(seed + 1, 4)
    value = losses.cosine(a, b)
    assert 0 <= value <= 2
    assert torch.isclose(losses.cosine(factor * a, b), value, atol=1e-5)
    assert losses.cosine(a, factor * a).abs() < 1e-5
    assert torch.isclose(losses.cosine(a, -a), torch.tensor(2.0))


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_taxon_nll_of_a_leaf_is_cross_entropy_and_of_the_root_nothing(seed: int) -> None:
    logits = 5 * torch.randn(6, 9, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(6)
    assert torch.isclose(losses.taxon_nll(logits, F.one_hot(labels, 9).bool()), F.cross_entropy(logits, labels))
    assert losses.taxon_nll(logits, torch.ones(6, 9, dtype=torch.bool)).abs() < 1e-5


def test_taxon_nll_has_gradients_everywhere() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    losses.taxon_nll(logits, torch.tensor([[True, True, False]])).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-1 / 6, -1 / 6, 1 / 3]]))


# The table


def photographs(b: int = 4, leaves: int = 6) -> losses.PhotographAnswers:
    embedding, text = units(0, b).requires_grad_(), units(2, leaves)
    return losses.PhotographAnswers(
        embedding=embedding,
        logits=losses.taxon_logits(embedding, text, 20.0),
        targets=[units(1, b)],
        texts=[text],
        logit_scales=[20.0],
        temperature=2.0,
        nodes=torch.arange(leaves)[None] // 2,
        node_counts=[leaves // 2],
        ranges=torch.arange(b)[:, None] + torch.tensor([0, 1]),
    )


def captions(b: int = 4, t: int = 3) -> losses.CaptionAnswers:
    return losses.CaptionAnswers(units(0, b), units(1, b), units(2, t).requires_grad_(), units(3, t), 20.0)


NONE = losses.Weights(**dict.fromkeys(losses.LOSSES, 0.0))


def test_every_loss_has_a_weight_and_every_weight_a_parameter() -> None:
    names = {weight.name for weight in fields(losses.Weights)}
    assert names == set(losses.LOSSES)
    section = parse_yaml(SCHEMA.read_text(encoding="utf-8"))["properties"]["distill"]["properties"]
    assert names - {"captions"} <= {*section, *section["text_tower"]["properties"]}
    chosen = {name: n + 0.5 for n, name in enumerate(sorted(names - {"batch_affinity", "captions"}))}
    weights = losses.Weights.of({**chosen, "epochs": 3, "text_tower": {"width": 64, "batch_affinity": 0.25}})
    assert weights == losses.Weights(**chosen, batch_affinity=0.25)
    assert losses.Weights.of({**chosen, "text_tower": None}) == losses.Weights(**chosen)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_each_loss_counts_by_its_weight_and_moves_the_student(name: str) -> None:
    answers = next(x for x in (photographs(), captions()) if type(x) is losses.LOSSES[name].answers)
    once = losses.weighted_sum(answers, replace(NONE, **{name: 1.0}))
    assert torch.isclose(losses.weighted_sum(answers, replace(NONE, **{name: 2.5})), 2.5 * once)
    assert once > 0
    once.backward()
    assert answers.embedding.grad is not None and answers.embedding.grad.abs().max() > 0


def test_without_any_loss_the_student_has_gradients_of_zero() -> None:
    answers = photographs()
    total = losses.weighted_sum(answers, NONE)
    total.backward()
    assert total == 0 and answers.embedding.grad is not None
    assert torch.equal(answers.embedding.grad, torch.zeros_like(answers.embedding))
