"""``python -m bioclip_lite captioner --out data/weights/FOLDER``: train a CoCa, a model that describes photographs.

It learns from the shards and captions at hand: a small one from nothing, or with --from one that there is. Named in
caption.captioners, it describes the photographs (``bioclip_lite.captioning.coca``).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.captioning.fine_tuning import train
from bioclip_lite.commands.common import command
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.utils.errors import UserError


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "captioner",
        "Train a small CoCa, a model that describes photographs, on the shards and their captions; or fine-tune one. "
        "Name it in caption.captioners of params.yaml to use its captions.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; an earlier captioner there is replaced"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--from", type=Path, dest="source", help="folder of a CoCa to fine-tune")
    parser.add_argument(
        "--captions", nargs="+", default=["com", "sci_com"], help="text types to learn (default: com sci_com)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training photographs (default: 20)")
    parser.add_argument("--learning-rate", type=float, help="peak value (default: 0.001, with --from 0.00003)")
    return parser


@command("captioner")
def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    rate = chosen.learning_rate or (3e-5 if chosen.source else 1e-3)
    if chosen.epochs < 1:
        raise UserError(f"--epochs is {chosen.epochs}; it must be at least 1")
    train(chosen.data, chosen.out, chosen.captions, chosen.epochs, rate, chosen.source)
    print(f"captioner: {chosen.out}; name it in caption.captioners as local-dir:{chosen.out.name}")
    return 0
