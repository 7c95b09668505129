import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from bioclip_lite.models import tokenizers
from bioclip_lite.utils.errors import UserError
from support.small_clip import TEXTS, unigram, written


def wordpiece(folder: Path, pad: Any = "[PAD]") -> Path:
    """A tokenizer of BERT's form, which CLIPA reads."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    number = tokenizer.get_vocab()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", number["[SEP]"]), ("[CLS]", number["[CLS]"]))
    return written(folder, tokenizer, {"pad_token": pad, "sep_token": "[SEP]"})


def config(context: int, **options: Any) -> dict[str, Any]:
    text = {"context_length": context, "hf_tokenizer_name": "some/name", "tokenizer_kwargs": options}
    return {"model_cfg": {"text_cfg": text}}


def test_clips_tokenizer_is_open_clips() -> None:
    described = tokenizers.describe({"model_cfg": {"text_cfg": {"context_length": 32}}}, None)
    assert json.loads(json.dumps(described)) == described
    built = tokenizers.build(described)
    assert torch.equal(built(TEXTS), open_clip.SimpleTokenizer(context_length=32)(TEXTS))


def test_a_tower_of_siglips_form_reads_canonical_text_padded_with_its_end(tmp_path: Path) -> None:
    built = tokenizers.build(tokenizers.describe(config(16, clean="canonicalize"), unigram(tmp_path / "t")))
    tokens = built(TEXTS)
    assert tokens.shape == (4, 16) and tokens.dtype == torch.int64
    end = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json")).token_to_id("</s>")
    assert (tokens[2] == end).all()  # nothing but the end, and padding with it
    assert tokens[3, -1] == end and (tokens[3, :-1] != end).all()  # cut, with its end kept
    assert torch.equal(built(["A photo of, BELLIS  perennis!"]), built(["a photo of bellis perennis"]))
    assert torch.equal(built(["bellis_perennis"]), built(["bellis perennis"]))


def test_a_tower_of_clipas_form_does_not_see_the_separator(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path / "t")
    plain = tokenizers.build(tokenizers.describe(config(16), folder))(TEXTS)
    stripped = tokenizers.build(tokenizers.describe(config(16, strip_sep_token=True), folder))(TEXTS)
    separator = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("[SEP]")
    assert (plain == separator).sum() == len(TEXTS)
    assert torch.equal(stripped, torch.where(plain == separator, 0, plain))


def test_the_numbers_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")  # not among the locked packages
    for folder in (wordpiece(tmp_path / "w"), unigram(tmp_path / "u")):
        reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        numbers = reference(TEXTS, max_length=16, padding="max_length", truncation=True, return_tensors="pt").input_ids
        assert torch.equal(tokenizers.build(tokenizers.describe(config(16), folder))(TEXTS), numbers)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "no JSON object"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": 1}'), "not of the library tokenizers"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "no token for padding"),
    ],
)
def test_files_that_are_no_tokenizer_are_told(tmp_path: Path, spoil: Any, says: str) -> None:
    folder = wordpiece(tmp_path / "t")
    spoil(folder)
    with pytest.raises(UserError, match=says):
        tokenizers.describe(config(16), folder)
