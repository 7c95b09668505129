"""Text towers of students that answer captions too, in the teacher's space: build, save, load.

===========  ===========================================================================================================
transformer  open_clip's, as our teachers have: causal attention
mixer        as MobileCLIP-S0's (arXiv 2311.17049): the first and the last block mix tokens by convolutions along the
             text, the blocks between them by attention in both directions. The convolutions have branches for training,
             which ``students.reparameterize`` merges to the same function (RepMixer, arXiv 2303.14189)
own          that of an open_clip model, by its name
===========  ===========================================================================================================

All map int64 tokens (b, context) to float32 (b, outputs), embeddings that are not normalised, read at the first token
for the end of the text. With "transformer" and "mixer" nothing behind that token changes the answer. A folder holds
``text.json`` and plain safetensors.
"""

import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import _build_text_tower
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from torch import nn

from bioclip_lite.models import students, tokenizers
from bioclip_lite.utils.errors import UserError, first_line
from bioclip_lite.utils.files import read_json, replacing_folder, require, write_json

SPEC_FILE = "text.json"
WEIGHTS_FILE = "model.safetensors"
CONTEXT = 64  # tokens; the longest caption of iNaturalist 2021 has 54
_VOCABULARY = 49408  # of open_clip.SimpleTokenizer, whose last token ends a text
_HEAD_WIDTH = 64
_KERNEL = 11  # tokens that a convolution sees, as in MobileCLIP
_EXPANSION = 4  # of the layer within a feed-forward block


def build(
    kind: str, width: int, layers: int, outputs: int, context: int = CONTEXT, student: str | None = None
) -> nn.Module:
    """A text tower with random weights; draws from torch's random numbers.

    Args:
        kind: "transformer", "mixer" or "own".
        width: of every block, a multiple of 64; not used by "own".
        layers: blocks; a mixer has at least 3, of which the first and the last are convolutions. Not used by "own".
        outputs: length of the embedding.
        context: the longest text in tokens; not used by "own".
        student: for "own" the name of an open_clip model, as distill.student.

    Raises:
        UserError: for what cannot be built.
    """
    if kind == "own":
        config = _open_clip_config(student)
        return _build_text_tower(outputs, config["text_cfg"], config.get("quick_gelu", False))
    if width % _HEAD_WIDTH:
        raise UserError(f"distill.text_tower.width is {width}; it must be a multiple of {_HEAD_WIDTH}")
    if kind == "transformer":
        return TextTransformer(context, _VOCABULARY, width, width // _HEAD_WIDTH, layers, output_dim=outputs)
    if kind == "mixer":
        if layers < 3:
            raise UserError(
                f"distill.text_tower.layers is {layers}; a mixer has at least 3, attention being in between"
            )
        return MixerText(width, layers, outputs, context)
    raise UserError(f"distill.text_tower.kind is {kind!r}; kinds are transformer, mixer, own")


def of_mobileclip(text_cfg: dict[str, Any], outputs: int) -> "MixerText":
    """The text tower of MobileCLIP-S0 with random weights: a merged mixer to which padding is text, in eval mode.

    ``text_cfg``: width, layers and context_length, as in ``open_clip_config.json``.
    """
    tower = MixerText(text_cfg["width"], text_cfg["layers"], outputs, text_cfg["context_length"], hides_padding=False)
    merged: MixerText = students.reparameterize(tower)  # type: ignore[assignment]
    return merged


def tokenizer(arguments: dict[str, Any]) -> open_clip.SimpleTokenizer:
    """Of the tower that ``build(**arguments)`` makes: list of str to int64 (b, context)."""
    own = arguments["kind"] == "own"
    text = _open_clip_config(arguments["student"])["text_cfg"] if own else {"context_length": arguments["context"]}
    return tokenizers.of_clip({"model_cfg": {"text_cfg": text}})


def save_text(
    folder: str | os.PathLike[str], tower: nn.Module, arguments: dict[str, Any], trained_on: str | None = None
) -> dict[str, Any]:
    """Write ``text.json`` and ``model.safetensors``; returns the content of the former. Equal towers are equal bytes.

    ``arguments`` are all those of ``build`` that made the tower, which may have been re-parameterised since;
    ``trained_on`` is the identity of the teacher in whose space it answers.
    """
    merged = any(isinstance(module, TokenMixer) and module.merged for module in tower.modules())
    about = {"tower": arguments, "reparameterized": merged, "trained_on": trained_on}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tower.state_dict().items()}
    with replacing_folder(folder, (SPEC_FILE, WEIGHTS_FILE)) as scratch:
        write_json(scratch / SPEC_FILE, about)
        save_file(state, scratch / WEIGHTS_FILE)
    return about


def load_text(folder: str | os.PathLike[str]) -> tuple[nn.Module, open_clip.SimpleTokenizer, dict[str, Any]]:
    """(tower in eval mode on the CPU, its tokenizer, content of ``text.json``) of a folder of ``save_text``."""
    folder = Path(folder)
    about = read_json(require(folder / SPEC_FILE))
    tower = build(**about["tower"])
    if about["reparameterized"]:
        tower = students.reparameterize(tower)
    try:
        tower.load_state_dict(load_file(require(folder / WEIGHTS_FILE)))
    except RuntimeError as error:
        raise UserError(
            f"{folder}: {WEIGHTS_FILE} does not fit {SPEC_FILE} ({first_line(error)}); both are written "
            f"together, so one was replaced: make the folder again"
        ) from error
    return tower.eval(), tokenizer(about["tower"]), about


def _open_clip_config(student: str | None) -> dict[str, Any]:
    """The configuration of an open_clip model whose text tower we can have; a fresh copy."""
    config = open_clip.get_model_config(student) if student in open_clip.list_models() else None
    if config is None:
        raise UserError(
            f"distill.text_tower: kind own is the text tower of an open_clip model, and distill.student, {student}, is "
            f"none; choose one (MobileCLIP2-S0 ...), or kind transformer or mixer"
        )
    text = config["text_cfg"]
    if text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise UserError(
            f"distill.text_tower: the text tower of {student} needs the library transformers, which is not supported; "
            f"take kind transformer or mixer"
        )
    return config


class MixerText(nn.Module):
    """Tokens, convolutions, attention, convolutions; see the head of this file.

    Unless it ``hides_padding``, what follows the end of a text is text to it, as in Apple's own tower.
    """

    def __init__(self, width: int, layers: int, outputs: int, context: int, hides_padding: bool = True) -> None:
        super().__init__()
        self.hides_padding = hides_padding
        self.token_embedding = nn.Embedding(_VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        between = [AttentionBlock(width, layers) for _ in range(layers - 2)]
        self.blocks = nn.ModuleList([MixerBlock(width), *between, MixerBlock(width)])
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, outputs, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)  # all as open_clip's
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """int64 (b, context) to float32 (b, outputs)."""
        ends = text.argmax(-1)  # the token for the end has the highest number
        if self.hides_padding:
            text = text[:, : int(ends.max()) + 1]  # padding would only take time
        last = ends if self.hides_padding else torch.full_like(ends, text.shape[1])
        valid = torch.arange(text.shape[1], device=text.device) <= last[:, None]
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        for block in self.blocks:
            x = block(x, valid)
        return self.projection(self.norm(x[torch.arange(len(x), device=x.device), ends]))


class AttentionBlock(nn.Module):
    """Attention in both directions and a feed-forward block, normalised before (arXiv 2002.04745)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, width // _HEAD_WIDTH, batch_first=True)
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), *_feed_forward(width))
        nn.init.normal_(self.attention.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attention.out_proj.weight, std=(2 * layers * width) ** -0.5)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """x (b, length, width), bool valid (b, length): no token looks at padding."""
        y = self.norm(x)
        x = x + self.attention(y, y, y, key_padding_mask=~valid, need_weights=False)[0]
        return x + self.feed_forward(x)


class MixerBlock(nn.Module):
    """MobileCLIP's block of convolutions: tokens are mixed, then mixed once more within a feed-forward block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixer = TokenMixer(width, skip=True)
        self.mixer_within = TokenMixer(width, skip=False)
        self.feed_forward = nn.Sequential(*_feed_forward(width))

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """x (b, length, width), bool valid (b, length)."""
        x = self.mixer(x, valid)
        return x + self.feed_forward(self.mixer_within(x, valid))


class TokenMixer(nn.Module):
    """norm(conv(x)), with ``skip`` + norm(x) + x; merged all of it is one depthwise convolution along the text.

    Padding counts as zeros in the convolution, and not at all in the statistics of the batch normalisations.
    """

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width, bias=False)
        self.norm: nn.BatchNorm1d | None = nn.BatchNorm1d(width)
        self.skip_norm: nn.BatchNorm1d | None = nn.BatchNorm1d(width) if skip else None

    @property
    def merged(self) -> bool:
        return self.norm is None

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """x (b, length, width), bool valid (b, length); where not valid, the answer means nothing."""
        x = x.masked_fill(~valid[..., None], 0.0)
        mixed = self.conv(x.transpose(1, 2)).transpose(1, 2)
        if self.norm is None:
            return mixed
        tokens = self.norm(mixed[valid])  # (tokens that are no padding, width)
        if self.skip_norm is not None:
            tokens = tokens + self.skip_norm(x[valid]) + x[valid]
        return torch.zeros_like(x, dtype=tokens.dtype).masked_scatter(valid[..., None], tokens)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Merge the branches, in place; timm's reparameterize_model calls it. For a tower in eval mode."""
        if self.norm is None:
            return
        scale, bias = _affine(self.norm)
        kernel = self.conv.weight.double() * scale[:, None, None]  # (width, 1, _KERNEL)
        if self.skip_norm is not None:
            skip_scale, skip_bias = _affine(self.skip_norm)
            kernel[:, 0, _KERNEL // 2] += skip_scale + 1.0
            bias = bias + skip_bias
        width = len(kernel)
        conv = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width).to(self.conv.weight)
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
        self.conv, self.norm, self.skip_norm = conv, None, None


def _affine(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 (scale, bias) of a batch normalisation in eval mode, each (width,)."""
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()  # type: ignore[union-attr]
    return scale, norm.bias.double() - norm.running_mean.double() * scale  # type: ignore[union-attr]


def _feed_forward(width: int) -> list[nn.Module]:
    inner, outer = nn.Linear(width, _EXPANSION * width), nn.Linear(_EXPANSION * width, width)
    nn.init.normal_(inner.weight, std=(2 * width) ** -0.5)
    return [inner, nn.GELU(), outer]
