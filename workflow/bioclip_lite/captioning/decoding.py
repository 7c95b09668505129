"""From next-token logits to texts: nucleus sampling (arXiv 1904.09751) and beam search.

Both work on a function ``step(rows, tokens)``: for int64 (m,) numbers of photographs and int64 (m, length) tokens so
far, float (m, V) logits of the next token. Steps share no state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

_HEAD = 256  # tokens looked at first: the nucleus rarely has more

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Text = list[int]  # tokens without those of the start, with the one that ended it, if any


@dataclass(frozen=True)
class Rules:
    """How texts begin and end."""

    start: Sequence[int]  # tokens that every text follows, at least one
    stops: Sequence[int]  # tokens that end a text
    never: Sequence[int]  # tokens that are no part of one
    shortest: int  # tokens before a stop may come
    longest: int  # tokens, the stop included

    def allow(self, logits: torch.Tensor, length: int) -> torch.Tensor:
        """Float32 logits in which tokens that may not stand at ``length`` (0 ...) are impossible."""
        logits = logits.float().clone()
        logits[:, list(self.never)] = -torch.inf
        if length < self.shortest:
            logits[:, list(self.stops)] = -torch.inf
        return logits


def nucleus(logits: torch.Tensor, top_p: float, uniform: torch.Tensor) -> torch.Tensor:
    """One token per row, from the smallest set of tokens whose probabilities add up to ``top_p``, renormalised.

    Args:
        logits: float32 (m, V).
        uniform: (m,) numbers in [0, 1) that decide.

    Returns:
        int64 (m,).
    """
    probabilities = logits.softmax(-1)
    top, order = probabilities.topk(min(_HEAD, logits.shape[1]))
    if (top.sum(-1) < top_p).any() and top.shape[1] < logits.shape[1]:
        top, order = probabilities.sort(stable=True, dim=-1, descending=True)
    top = top.double()
    kept = top * (top.cumsum(-1) - top < top_p)  # a token is in if those before it do not suffice
    # In the order of their numbers: that of their probabilities turns on the last bit where two are nearly equal.
    order, places = order.sort(-1)
    reached = kept.gather(-1, places).cumsum(-1)
    mass = reached[:, -1:].contiguous()
    place = torch.searchsorted(reached, uniform.double()[:, None] * mass, right=True)
    place = place.minimum(torch.searchsorted(reached, mass))  # rounding
    return order.gather(-1, place)[:, 0]


def sample(step: Step, rows: torch.Tensor, rules: Rules, top_p: float, uniforms: np.ndarray) -> list[Text]:
    """A text for each of ``rows``, by nucleus sampling; ``uniforms`` (m, longest) in [0, 1) are all its randomness."""
    drawn = torch.from_numpy(uniforms).to(rows.device)
    texts: list[Text] = [[] for _ in rows]
    stops = set(rules.stops)
    going = list(range(len(rows)))
    tokens = torch.tensor(rules.start, device=rows.device).repeat(len(rows), 1)
    for length in range(rules.longest):
        logits = rules.allow(step(rows[going], tokens), length)
        chosen = nucleus(logits, top_p, drawn[going, length])
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        for i, token in zip(going, chosen.tolist(), strict=True):
            texts[i].append(token)
        goes_on = [n for n, i in enumerate(going) if texts[i][-1] not in stops]
        if not goes_on:
            break
        tokens, going = tokens[goes_on], [going[n] for n in goes_on]
    return texts


def beam_search(step: Step, rows: torch.Tensor, rules: Rules, beams: int, count: int) -> list[list[Text]]:
    """For each of ``rows`` the ``count`` best texts found with ``beams`` beams, best first; fewer if there are no more.

    The best is the most probable. Texts that have ended take no beam away from those that have not, and a text as long
    as it may be counts as ended.
    """
    device = rows.device
    ended: list[list[tuple[float, Text]]] = [[] for _ in rows]
    going = torch.arange(len(rows), device=device)
    tokens = torch.tensor(rules.start, device=device).repeat(len(rows), 1, 1)
    sums = torch.zeros(len(rows), 1, dtype=torch.float64, device=device)
    stops = torch.tensor(list(rules.stops), dtype=torch.int64, device=device)

    def end(scores: torch.Tensor, texts: torch.Tensor) -> None:
        """Take note of texts (b, c, length) with their log probabilities (b, c)."""
        for i, row_scores, row_texts in zip(going.tolist(), scores.tolist(), texts.tolist(), strict=True):
            finished = [(s, t) for s, t in zip(row_scores, row_texts, strict=True) if s > -np.inf]
            ended[i] = sorted([*ended[i], *finished], key=lambda one: (-one[0], one[1]))[:count]

    for length in range(rules.longest):
        b, k, _ = tokens.shape
        logits = rules.allow(step(rows[going].repeat_interleave(k), tokens.flatten(0, 1)), length)
        total = sums[..., None] + logits.log_softmax(-1).double().view(b, k, -1)
        size = total.shape[-1]

        def extended(flat: torch.Tensor, last: torch.Tensor, per_beam: int, before: torch.Tensor) -> torch.Tensor:
            parents = flat // per_beam
            kept = before.gather(1, parents[..., None].expand(-1, -1, before.shape[2]))
            return torch.cat([kept, last[..., None]], 2)

        stopped = total[:, :, stops].flatten(1)
        scores, flat = stopped.topk(min(count, stopped.shape[1]))
        new = extended(flat, stops[flat % len(stops)], len(stops), tokens)
        end(scores, new[..., len(rules.start) :])

        total[:, :, stops] = -torch.inf
        sums, flat = total.flatten(1).topk(min(beams, k * size))
        tokens = extended(flat, flat % size, size, tokens)
        if length + 1 == rules.longest:
            end(sums, tokens[..., len(rules.start) :])
            break
        bound = sums[:, 0].tolist()  # a text only becomes less probable as it grows
        open_ = [
            n
            for n, i in enumerate(going.tolist())
            if bound[n] > -np.inf and (len(ended[i]) < count or ended[i][-1][0] < bound[n])
        ]
        if not open_:
            break
        tokens, sums, going = tokens[open_], sums[open_], going[open_]
    return [[text for _, text in best] for best in ended]
