"""Beam search against every text there is, nucleus sampling against its definition."""

from itertools import product

import numpy as np
import pytest
import torch

from bioclip_lite.captioning import decoding
from bioclip_lite.utils.randomness import generator

START, STOP, NEVER = 0, 4, 5
VOCABULARY = 6


def toy(seed: int, *, sharp: float = 1.5) -> decoding.Step:
    """A language model whose next token depends on the photograph and on all tokens so far."""

    def step(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [
                torch.from_numpy(sharp * generator(seed, int(r), *t).standard_normal(VOCABULARY)).float()
                for r, t in zip(rows, tokens.tolist(), strict=True)
            ]
        )

    return step


def rules(longest: int, shortest: int = 1) -> decoding.Rules:
    return decoding.Rules([START], [STOP], [START, NEVER], shortest, longest)


def score(step: decoding.Step, row: int, text: tuple[int, ...], of: decoding.Rules) -> float:
    total = 0.0
    for length, token in enumerate(text):
        tokens = torch.tensor([[START, *text[:length]]])
        logits = of.allow(step(torch.tensor([row]), tokens), length)
        total += float(logits.double().log_softmax(-1)[0, token])
    return total


def every_text(of: decoding.Rules) -> list[tuple[int, ...]]:
    words = [token for token in range(VOCABULARY) if token not in (START, STOP, NEVER)]
    ended = [(*w, STOP) for n in range(of.shortest, of.longest) for w in product(words, repeat=n)]
    return ended + list(product(words, repeat=of.longest))


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int) -> None:
    of, step = rules(4, shortest=1 + seed % 2), toy(seed)
    found = decoding.beam_search(step, torch.tensor([0, 1, 2]), of, beams=27, count=5)
    for row in range(3):
        ranked = sorted(every_text(of), key=lambda text: -score(step, row, text, of))
        # A text may also end with a stop at the last place.
        last = [(*w, STOP) for w in product((1, 2, 3), repeat=of.longest - 1)]
        ranked = sorted({*ranked, *last}, key=lambda text: -score(step, row, text, of))
        assert [tuple(text) for text in found[row]] == ranked[:5]


def plain_beam(step: decoding.Step, row: int, of: decoding.Rules, beams: int) -> list[tuple[int, ...]]:
    """Beam search as one would write it for one photograph and without stopping early."""
    going: list[tuple[int, ...]] = [()]
    ended = []
    for length in range(of.longest):
        longer = [(*text, token) for text in going for token in range(1, 5)]
        sums = {text: score(step, row, text, of) for text in longer}
        ended += [text for text in longer if text[-1] == STOP and length >= of.shortest]
        going = sorted((t for t in longer if t[-1] != STOP), key=lambda t: -sums[t])[:beams]
    return sorted([*ended, *going], key=lambda text: -score(step, row, text, of))


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_a_narrow_beam_finds_what_the_plain_one_finds(beams: int) -> None:
    of, step = rules(6, shortest=2), toy(7)
    found = decoding.beam_search(step, torch.arange(5), of, beams, count=beams)
    for row in range(5):
        assert [tuple(text) for text in found[row]] == plain_beam(step, row, of, beams)[:beams]


def test_a_photograph_is_described_the_same_in_any_company() -> None:
    of, step = rules(6), toy(3)
    together = decoding.beam_search(step, torch.arange(4), of, 3, 2)
    assert together == [decoding.beam_search(step, torch.tensor([row]), of, 3, 2)[0] for row in range(4)]
    uniforms = generator("u").random((4, 6))
    drawn = decoding.sample(step, torch.arange(4), of, 0.9, uniforms)
    assert drawn == [decoding.sample(step, torch.tensor([r]), of, 0.9, uniforms[[r]])[0] for r in range(4)]
    assert drawn[::-1] == decoding.sample(step, torch.arange(4).flip(0), of, 0.9, uniforms[::-1].copy())


@pytest.mark.parametrize("size", [5, 3000])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_the_nucleus_has_the_probabilities_it_should(size: int, top_p: float) -> None:
    logits = torch.from_numpy(generator("nucleus", size).standard_normal(size) * (1 if size < 9 else 0.1)).float()
    p = logits.double().softmax(0).numpy()
    order = np.argsort(-p)
    inside = order[: int(np.searchsorted(p[order].cumsum(), top_p)) + 1]
    expected = np.zeros(size)
    expected[inside] = p[inside] / p[inside].sum()

    count = 60_000 if size < 9 else 6_000
    uniforms = (torch.arange(count).double() + 0.5) / count  # all of [0, 1), evenly
    drawn = torch.cat([decoding.nucleus(logits.expand(len(part), -1), top_p, part) for part in uniforms.split(2000)])
    share = np.bincount(drawn.numpy(), minlength=size) / count
    assert np.abs(share - expected).max() < 1.5 / count
    assert set(drawn.tolist()) <= set(inside.tolist())


def test_a_small_nucleus_is_the_likeliest_token() -> None:
    logits = torch.randn(7, 500, generator=torch.Generator().manual_seed(0))
    for u in (0.0, 0.999999):
        chosen = decoding.nucleus(logits, 1e-6, torch.full((7,), u))
        assert chosen.tolist() == logits.argmax(1).tolist()


def test_a_text_goes_on_from_a_start_of_several_tokens() -> None:
    """As a text that began with START and was forced to those tokens would have gone on."""
    of, step = rules(5), toy(3)
    longer = decoding.Rules([START, 2, 3], of.stops, of.never, of.shortest, of.longest)

    def forced(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        begun = torch.tensor([2, 3]).repeat(len(tokens), 1)
        return step(rows, torch.cat([tokens[:, :1], begun, tokens[:, 1:]], 1))

    uniforms = generator("start").random((4, 5))
    drawn = decoding.sample(step, torch.arange(4), longer, 0.9, uniforms)
    assert drawn == decoding.sample(forced, torch.arange(4), of, 0.9, uniforms)
    assert decoding.beam_search(step, torch.arange(4), longer, 3, 2) == decoding.beam_search(
        forced, torch.arange(4), of, 3, 2
    )


def test_texts_end_with_a_stop_or_at_their_longest() -> None:
    of, step = rules(7, shortest=3), toy(11, sharp=3.0)
    texts = decoding.sample(step, torch.arange(80), of, 1.0, generator("ends").random((80, 7)))
    assert {len(text) for text in texts} >= {4, 7}
    for text in texts:
        assert 4 <= len(text) <= 7 and STOP not in text[:-1]
        assert text[-1] == STOP or len(text) == 7
        assert not {START, NEVER} & set(text)
