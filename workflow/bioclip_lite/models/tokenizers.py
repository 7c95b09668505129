"""Tokenizers of text towers: CLIP's own, and those that SigLIP, CLIPA and MetaCLIP 2 read from a tokenizer.json.

A teacher's folder holds a description of its tokenizer in ``text_tokenizer.json``, so that it works without a hub. The
numbers equal those of open_clip's HFTokenizer, which needs the library transformers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import get_clean_fn
from tokenizers import Tokenizer

from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json

FILE = "text_tokenizer.json"
SOURCE = "tokenizer.json"  # of the library tokenizers, as hubs hold it
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # beside it: which tokens pad and separate
_CLIP, _FILE = "clip", "tokenizers"  # kinds


@dataclass(frozen=True)
class FileTokenizer:
    """A tokenizer of the library tokenizers: list of str to int64 (b, context_length)."""

    tokenizer: Tokenizer
    context_length: int
    clean: Callable[[str], str]
    separator: int | None  # a token that the tower does not want to see

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        encoded = self.tokenizer.encode_batch([self.clean(text) for text in texts])
        tokens = torch.tensor([one.ids for one in encoded], dtype=torch.int64).reshape(-1, self.context_length)
        return tokens if self.separator is None else tokens.masked_fill(tokens == self.separator, 0)


def describe(config: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """The content of ``text_tokenizer.json`` for an ``open_clip_config.json``.

    Args:
        folder: holds ``tokenizer.json`` and its settings; None for CLIP's own tokenizer.

    Raises:
        UserError: the files are no tokenizer of the library tokenizers, or name no token for padding.
    """
    text = config["model_cfg"]["text_cfg"]
    own = dict(text.get("tokenizer_kwargs") or {})
    length = text.get("context_length", 77)
    if folder is None:
        return {"kind": _CLIP, "context_length": length, "options": own}
    settings = _settings(folder)
    described = {
        "kind": _FILE,
        "context_length": length,
        "clean": own.get("clean", "whitespace"),
        "pad_token": settings.get("pad_token"),
        "separator": settings.get("sep_token") if own.get("strip_sep_token") else None,
        "tokenizer": _read(folder / SOURCE),
    }
    build(described)
    return described


def build(described: dict[str, Any]) -> Any:
    """The tokenizer of a ``text_tokenizer.json``: list of str to int64 (b, context_length)."""
    length = described["context_length"]
    if described["kind"] == _CLIP:
        return open_clip.SimpleTokenizer(context_length=length, **described["options"])
    try:
        tokenizer = Tokenizer.from_str(json.dumps(described["tokenizer"]))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{SOURCE} is not of the library tokenizers ({str(error)[:120]}); fetch it again") from error
    pad = described["pad_token"]
    number = tokenizer.token_to_id(pad) if pad else None
    if number is None:
        raise UserError(f"{SOURCE} has no token for padding; {' or '.join(SETTINGS)} beside it must name pad_token")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=number, pad_token=pad)
    separator = described["separator"]
    return FileTokenizer(
        tokenizer, length, get_clean_fn(described["clean"]), tokenizer.token_to_id(separator) if separator else None
    )


def of_clip(config: dict[str, Any]) -> open_clip.SimpleTokenizer:
    """CLIP's own tokenizer as an ``open_clip_config.json`` sets it up."""
    return build(describe(config, None))


def _settings(folder: Path) -> dict[str, str]:
    """Special tokens by role; either file may give a token as text or as an object with ``content``."""
    found: dict[str, str] = {}
    for name in reversed(SETTINGS):
        stated = _read(folder / name) if (folder / name).is_file() else {}
        for role, token in stated.items():
            text = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(text, str):
                found[role] = text
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no JSON ({str(error)[:100]}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object; fetch it again")
    return content
