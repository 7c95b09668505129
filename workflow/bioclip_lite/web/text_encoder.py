"""Convert a text tower for the web, to compare photographs with names and words that the bundle lacks.

data/convert/text holds the tower as a TensorFlow.js graph model with 8-bit weights, its token embeddings (int8 rows as
in the bundle's table of taxa), its positions, the merges of the tokenizer, and text.json, which describes them.
react-bio-clip reads it with ``loadTextEncoder``. It is released only if Node splits texts into the same tokens as
open_clip, and computes the same embeddings as the rounded tower in PyTorch.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import normalize

from bioclip_lite.compression import quantized
from bioclip_lite.compression.mixed_precision import least_bytes_per_parameter, quantize
from bioclip_lite.graph import execution
from bioclip_lite.graph.nodes import Graph, Weights
from bioclip_lite.models import teachers, text_towers, tokenizers
from bioclip_lite.taxa.taxonomy import RANKS
from bioclip_lite.teacher_cache import store
from bioclip_lite.texts import text_types
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.files import read_json, read_table, replacing_folder, require, write_json
from bioclip_lite.utils.randomness import drawn
from bioclip_lite.web import bundle, javascript, manifest, tfjs
from bioclip_lite.web.text_graph import fold_text, hides_padding

if TYPE_CHECKING:
    from bioclip_lite.params.jobs import TextEncoder

FILE = "text.json"
FORMAT = 1  # of text.json; react-bio-clip refuses others
_BYTES_PER_PARAMETER = 1.05  # more for a tower so thin that its biases need more
_REPAIR = {"equalise": False, "rounding": "gptq", "bias": True}
_CALIBRATION = 64  # texts of full length, packed from captions
_COMPARED = 64  # captions that are embedded in Node
_TYPES = ("sci", "com", "taxon_com")
# Texts as people type them: case, accents, other scripts, numbers, entities, spaces, an apostrophe.
_AWKWARD = (
    "Ophrys \u00d7 hybrida, L\u00f6wenzahn & \u674e (2 specimens)",
    "  a PHOTO of\tDarwin's  finch&amp;co. \U0001f426 #1234 caf\u00e9-au-lait ",
    '\u0437\u0438\u043c\u043e\u0440\u043e\u0434\u043e\u043a; \u03b1-males, 3.5 cm; they\'re "red" + 20%',
    "word " * 100,
    "",
)


@dataclass(frozen=True)
class _Reader:
    tower: Any  # as fold_text takes it
    encode: Callable[[torch.Tensor], torch.Tensor]  # int64 (n, context) to (n, D)
    tokenizer: Any
    teacher: dict[str, Any]  # teacher.json of its embedding space


def write(params: "TextEncoder", data: Path) -> None:
    """Write data/convert/text for the tower that convert.text_encoder names: "teacher" or "student".

    Raises:
        UserError: the tower or its tokenizer has parts that the web model lacks, a file is missing, or Node differs.
    """
    javascript.check_tools()
    key = manifest.read_private_key(params["sign_with"], data)
    who = params["text_encoder"]
    reader = _reader(who, data)
    folded, weights = fold_text(reader.tower)
    rows = store.encode(reader.tower.token_embedding.weight.detach().float().numpy(), "int8")
    positions = reader.tower.positional_embedding.detach().float().numpy()
    embedding = store.decode(rows["embeddings"], rows["scales"])
    captions = _captions(data)
    packed, hides = _packed(reader.tokenizer, captions), hides_padding(reader.tower)
    inputs = _inputs(packed, torch.full((len(packed),), packed.shape[1] - 1), embedding, positions, hides)
    budget = max(_BYTES_PER_PARAMETER, least_bytes_per_parameter(folded, weights))
    quantized_tower = quantize(folded, weights, inputs, budget, _REPAIR)
    rounded = quantized_tower.rounded

    texts = [*(captions[i] for i in drawn(captions, _COMPARED, "text encoder")), *_AWKWARD]
    tokens = reader.tokenizer(texts)
    ends = tokens.argmax(1)  # the token for the end has the highest number
    everywhere = execution.run(folded, rounded.weights, _inputs(tokens, ends, embedding, positions, hides))
    outputs = everywhere[torch.arange(len(texts)), :, ends, 0]
    expected, exact = (normalize(values, dim=1).numpy() for values in (outputs, _exact(reader, tokens)))
    target = data / "convert" / "text"
    with (
        replacing_folder(target, (FILE, FILE + manifest.SIGNATURE, bundle.HASHED)) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        quantized.save(scratch, folded, rounded.weights, rounded.grids)
        javascript.convert(Path(scratch), folder)
        about = _describe(folder, reader, folded, weights, rows, positions)
        write_json(folder / FILE, about)
        embeddings = _in_node(folder, texts, tokens)
        difference = float(np.abs(embeddings - expected).max())
        if not difference <= params["tolerance"]:
            raise UserError(
                f"convert.text_encoder: embeddings of texts differ between PyTorch and Node by {difference:.2e}, "
                f"more than convert.tolerance ({params['tolerance']}), so an operation of graph/operations is wrong in "
                "TensorFlow; nothing was written"
            )
        cosines = (embeddings.astype(np.float64) * exact).sum(axis=1)
        about["measured"] = {
            "texts": len(texts),
            "largest_difference": difference,
            "cosine": {"mean": float(cosines.mean()), "min": float(cosines.min())},
            "bytes_per_parameter": quantized_tower.bytes_per_parameter,
        }
        about["provenance"] |= manifest.signed_by(key)
        write_json(folder / FILE, about)
        manifest.sign(folder / FILE, key)
    print(
        f"convert: text encoder of the {who}, {about['bytes'] / 1e6:.2f} MB; {len(texts)} texts: the same tokens in "
        f"Node, cosine to float32 mean {cosines.mean():.5f}, least {cosines.min():.5f}"
    )


def _reader(who: str | None, data: Path) -> _Reader:
    about = read_json(require(data / "teacher" / "model" / teachers.TEACHER_FILE))
    if who == "teacher":
        teacher = teachers.load_teacher(data / "teacher" / "model")
        if isinstance(teacher.tokenizer, tokenizers.FileTokenizer):
            raise UserError(
                f"convert.text_encoder is teacher, but the text tower of {about['name']} reads other tokens than "
                "CLIP's, which the web model lacks; set it to student (with distill.text_tower), or to null"
            )
        return _Reader(
            getattr(teacher.model, "text", teacher.model), teacher.model.encode_text, teacher.tokenizer, about
        )
    folder = data / "distill" / "text"
    if not folder.exists():
        raise UserError(f"convert.text_encoder is student, but {folder} is missing: set distill.text_tower")
    tower, tokenizer, tower_about = text_towers.load_text(folder)
    if tower_about["trained_on"] != about["identity"]:
        raise UserError(f"{folder} was trained on another teacher than data/teacher/model holds; run stage distill")
    return _Reader(tower, tower, tokenizer, about)


@torch.inference_mode()
def _exact(reader: _Reader, tokens: torch.Tensor) -> torch.Tensor:
    embeddings: torch.Tensor = reader.encode(tokens).float()
    return embeddings


# Texts


def _captions(data: Path) -> list[str]:
    """Captions of all taxa in several text types, without duplicates."""
    rows = read_table(data / "index" / "taxa.parquet", [*RANKS, "common_name"]).to_pylist()
    paths = [(tuple(row[rank] for rank in RANKS), row["common_name"]) for row in rows]
    return list(dict.fromkeys(text_types.caption(path, name, kind) for path, name in paths for kind in _TYPES))


def _packed(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Pack captions one after the other, so that no position is padding: int64 (n, context)."""
    joined = [
        token
        for i in drawn(captions, len(captions), "packed")
        for token in [*tokenizer.encode(captions[i]), tokenizer.eot_token_id]
    ]
    length = tokenizer.context_length - 1
    needed = _CALIBRATION * length
    joined = (joined * -(-needed // len(joined)))[:needed]
    return torch.tensor([[tokenizer.sot_token_id, *joined[n : n + length]] for n in range(0, needed, length)])


def _inputs(
    tokens: torch.Tensor, ends: torch.Tensor, embedding: np.ndarray, positions: np.ndarray, hides: bool
) -> torch.Tensor:
    """Inputs of the graph: float32 (n, width, context, 1), or (n, width + 1, ...) if it ``hides`` padding.

    ``ends``: the last position of each text, int64 (n,).
    """
    x = torch.from_numpy(embedding[tokens.numpy()] + positions)
    if hides:
        seen = torch.arange(tokens.shape[1]) <= ends[:, None]
        x = torch.cat([x, seen[..., None].to(x.dtype)], dim=2)
    return x.permute(0, 2, 1)[..., None].contiguous()


# The files


def _describe(
    folder: Path,
    reader: _Reader,
    folded: Graph,
    weights: Weights,
    rows: dict[str, np.ndarray],
    positions: np.ndarray,
) -> dict[str, Any]:
    """Write the other files of the encoder; returns the content of text.json."""
    table = rows["scales"].tobytes() + rows["embeddings"].tobytes()
    pieces = [table[n : n + tfjs.FILE_BYTES] for n in range(0, len(table), tfjs.FILE_BYTES)]
    tokens = [bundle.add(folder, f"tokens-{number}", ".bin", piece) for number, piece in enumerate(pieces)]
    merges = "".join(f"{left} {right}\n" for left, right in reader.tokenizer.bpe_ranks)
    return {
        "format": FORMAT,
        "model": bundle.take_model(folder, folded, weights),
        "tokens": {
            "files": tokens,
            "rows": len(rows["scales"]),
            "columns": rows["embeddings"].shape[1],
            "dtype": "int8",
        },
        "positions": {"file": bundle.add(folder, "positions", ".bin", positions.astype("<f4").tobytes())},
        "merges": {"file": bundle.add(folder, "merges", ".txt", merges.encode())},
        "context": len(positions),
        **({"hides_padding": True} if hides_padding(reader.tower) else {}),
        "embedding": next(node["shape"][0] for node in reversed(folded["nodes"]) if node["name"] == folded["output"]),
        "teacher_identity": reader.teacher["identity"],
        "licences": {"teacher": reader.teacher["licence"]},
        "provenance": {"teacher": reader.teacher["name"]},
        "files": (files := bundle.listed(folder)),
        "bytes": sum(file["bytes"] for file in files.values()),
    }


def _in_node(folder: Path, texts: Sequence[str], tokens: torch.Tensor) -> np.ndarray:
    """Unit embeddings from Node, float32 (n, D); UserError if Node splits a text into other tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        write_json(file := Path(scratch) / "texts.json", list(texts))
        result = json.loads(javascript.node("text", [str(folder), str(file)], "the text encoder in Node"))
    for text, own, expected in zip(texts, result["tokens"], tokens.tolist(), strict=True):
        if own != expected:
            raise UserError(
                f"convert.text_encoder: the tokenizer of this tower splits {text[:60]!r} differently from CLIP's, "
                "the only one that the web model supports; no text encoder was written"
            )
    return np.array(result["embeddings"], dtype=np.float32)
