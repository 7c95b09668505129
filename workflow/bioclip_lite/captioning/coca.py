"""Captioners: CoCas (arXiv 2205.01917) that describe photographs, for stage caption.

A CoCa is a CLIP with a decoder that writes a caption. Any of open_clip's can be named in caption.captioners, and
fine-tuned there on captions of the user's; ``python -m bioclip_lite captioner`` trains a small one.

open_clip's own CoCa.generate needs the library transformers, and helpers that its newer versions have dropped; here the
search over next tokens is ``decoding``. Photographs are described in float32 on a CPU and in bfloat16 on a GPU.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.coca_model import CoCa

from bioclip_lite.captioning import decoding
from bioclip_lite.models import hub, teachers, tokenizers
from bioclip_lite.photographs import loading
from bioclip_lite.photographs.shards import ShardSet
from bioclip_lite.utils import machine
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import require
from bioclip_lite.utils.randomness import generator

_IMAGES = {"cpu": 16, "cuda": 128}  # photographs described at a time
_SHORTEST = 4  # tokens of a caption, as in open_clip


@dataclass(frozen=True)
class Captioner:
    """A CoCa ready for use, in eval mode."""

    model: CoCa
    tokenizer: open_clip.SimpleTokenizer
    preprocess: dict[str, Any]


def model_folder(data: Path, captioner: str) -> Path:
    """Where the model of a captioner lies that stage caption has fine-tuned."""
    return data / "caption" / captioner / "model"


def published(chosen: dict[str, Any], weights: Path) -> hub.Published:
    """The CoCa that an entry of caption.captioners names, before any fine-tuning; ``weights`` is data/weights.

    Raises:
        UserError: it is not found, or is no CoCa.
    """
    where = place(chosen)
    found = hub.find(chosen["model"], chosen["weights"], weights, what=where, preprocess=chosen.get("preprocess"))
    if "multimodal_cfg" not in found.config["model_cfg"]:
        raise UserError(f"{where}: {found.name} is no CoCa, it has no decoder; see open_clip.list_models()")
    return found


def find(chosen: dict[str, Any], data: Path) -> Captioner:
    """The CoCa of an entry of caption.captioners, on the device; the fine-tuned one where the entry asks for that."""
    where, folder = place(chosen), model_folder(data, chosen["name"])
    if chosen.get("fine_tuning"):
        require(folder / hub.CONFIG)
        found = hub.find(f"local-dir:{folder.absolute()}", None, data / "weights", what=where)
    else:
        found = published(chosen, data / "weights")
    config = copy.deepcopy(found.config)
    model = hub.load(found, where)
    tokenizer = tokenizers.of_clip(config)
    _check_length(chosen, tokenizer, model.context_length)
    model.to(machine.device()).eval()
    return Captioner(model, tokenizer, teachers.open_clip_preprocess(config, where))


def place(chosen: dict[str, Any]) -> str:
    """An entry of caption.captioners in messages."""
    return f"caption.captioners, {chosen['name']}"


def _check_length(chosen: dict[str, Any], tokenizer: open_clip.SimpleTokenizer, context: int) -> None:
    prompt = len(tokenizer.encode(chosen.get("prompt") or ""))
    most = context - 1 - prompt
    if chosen["tokens"] > most:
        after = f" after the {prompt} of its prompt" if prompt else ""
        raise UserError(f"{place(chosen)}: tokens is {chosen['tokens']}; the model writes at most {most}{after}")


def describe(captioner: Captioner, images: ShardSet, chosen: dict[str, Any], seed: int) -> Iterator[list[str]]:
    """For each photograph, in order, ``chosen["captions"]`` captions; fewer if beam search finds fewer.

    Each caption is drawn with random numbers from its own name (seed, captioner, key, number), so it depends on no
    other photograph, but for rounding: a matrix product may differ in its last bits with the size of the batch.
    """
    rules = _rules(captioner, chosen["tokens"], chosen.get("prompt") or "")
    device = machine.device()
    count = chosen["captions"]
    start = 0
    for pixels in loading.plain_pixels(images, captioner.preprocess, _IMAGES[device.type]):
        with torch.inference_mode(), _precision(device):
            _, seen = captioner.model._encode_image(pixels)
            step = functools.partial(_next_logits, captioner.model, seen)
            rows = torch.arange(len(pixels), device=device)
            if chosen["method"] == "beam":
                texts_of_batch = decoding.beam_search(step, rows, rules, chosen["beams"], count)
            else:
                keys = images.keys[start : start + len(pixels)]
                names = [("caption", seed, chosen["name"], key, n) for key in keys for n in range(count)]
                uniforms = np.stack([generator(*name).random(rules.longest) for name in names])
                flat = decoding.sample(step, rows.repeat_interleave(count), rules, chosen["top_p"], uniforms)
                texts_of_batch = [flat[i * count : (i + 1) * count] for i in range(len(pixels))]
        start += len(pixels)
        for texts in texts_of_batch:
            yield [_words(captioner.tokenizer, [*rules.start[1:], *text]) for text in texts]


def _precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _next_logits(model: CoCa, seen: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Float (m, V) logits of the token after ``tokens`` (m, length), for the photographs ``rows`` of ``seen``.

    What the model's own forward gives at the last place, without the (m, length, V) logits of all the others.
    """
    _, x = model._encode_text(tokens)
    return decode(model, seen[rows], x)[:, -1] @ model.text_decoder.text_projection


def decode(model: CoCa, image: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(m, length, width): the decoder before its wide last layer, on tokens of photographs and of texts."""
    decoder = model.text_decoder
    mask = decoder.attn_mask[: x.shape[1], : x.shape[1]]
    for block, look in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        x = look(block(x, attn_mask=mask), k_x=image, v_x=image)
    return decoder.ln_final(x)


def _rules(captioner: Captioner, longest: int, prompt: str = "") -> decoding.Rules:
    """A caption goes on from the prompt, and ends with the token for the end or the first full stop."""
    tokenizer = captioner.tokenizer
    words = len(tokenizer.encoder)
    outputs = captioner.model.text_decoder.text_projection.shape[1]
    stops = [number for number, piece in tokenizer.decoder.items() if "." in piece or number == tokenizer.eot_token_id]
    never = [captioner.model.pad_id, tokenizer.sot_token_id, *range(words, outputs)]
    start = [tokenizer.sot_token_id, *tokenizer.encode(prompt)]
    return decoding.Rules(start, stops, never, min(_SHORTEST, longest), longest)


def _words(tokenizer: open_clip.SimpleTokenizer, tokens: Sequence[int]) -> str:
    """The text of a caption up to its first full stop, with one space between words; "" if there is none."""
    decoded = tokenizer.decode([token for token in tokens if token != tokenizer.eot_token_id])
    text = " ".join(decoded.partition(".")[0].split())
    return f"{text}." if text else ""
