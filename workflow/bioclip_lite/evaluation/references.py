"""Answers without a model, which every model must beat. Needs no PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bioclip_lite.evaluation.predictions import Answers, Block
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.taxa.label_space import Labels
from bioclip_lite.utils.randomness import generator

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import RandomVariant

_BATCH = 64


def random(params: "RandomVariant", data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The leaves in an order drawn for each photograph.

    One place is worth 10 nats, so that the first leaf has nearly all probability and decides every rank: with flat
    logits the largest family would always win, which is no random answer.
    """
    keys = _keys(data, shards)

    def block(names: list[str]) -> Block:
        orders = [generator(params["seed"], "evaluate", "random", name).permutation(len(labels.ids)) for name in names]
        return Block(-10 * np.array(orders, dtype=np.float32))

    return Answers(keys, (block(keys[start : start + _BATCH]) for start in range(0, len(keys), _BATCH)), dict)


def majority(params: Mapping[str, Any], data: Path, shards: Sequence[str], labels: Labels) -> Answers:
    """The leaf with most training photographs, whatever the photograph: logits are logarithms of their numbers."""
    keys = _keys(data, shards)
    training = dict(zip(labels.taxa["taxon_id"].to_pylist(), labels.taxa["train"].to_pylist(), strict=True))
    row = np.log([training[leaf] + 0.5 for leaf in labels.ids]).astype(np.float32)  # half a photograph: never zero
    blocks = (Block(np.tile(row, (len(keys[start : start + _BATCH]), 1))) for start in range(0, len(keys), _BATCH))
    return Answers(keys, blocks, dict)


def _keys(data: Path, shards: Sequence[str]) -> list[str]:
    return ShardSet.of(*(data / "shard" / f"{shard}.tar" for shard in shards)).keys


ANSWERS = {"majority": majority, "random": random}
