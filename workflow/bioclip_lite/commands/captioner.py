"""``python -m bioclip_lite captioner --out data/weights/FOLDER``: train a CoCa, a model that describes photographs.

It learns from the shards and captions at hand: a small one from nothing, or with --from one that there is. Named in
caption.captioners, it describes the photographs (``bioclip_lite.captioning.coca``).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.captioning.fine_tuning import train
from bioclip_lite.commands.common import command
from bioclip_lite.utils.errors import UserError


@command("captioner")
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bioclip_lite captioner",
        description="Train a small CoCa on the shards and their captions, or fine-tune one, for caption.captioners.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make, or a captioner to replace")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--from", type=Path, dest="source", help="a folder with a CoCa to fine-tune")
    parser.add_argument(
        "--captions", nargs="+", default=["com", "sci_com"], help="text types to learn (default: com sci_com)"
    )
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument("--learning-rate", type=float, help="at its peak (default: 0.001, with --from 0.00003)")
    chosen = parser.parse_args(arguments)
    rate = chosen.learning_rate or (3e-5 if chosen.source else 1e-3)
    if chosen.epochs < 1:
        raise UserError(f"--epochs is {chosen.epochs}; it must be at least 1")
    train(chosen.data, chosen.out, chosen.captions, chosen.epochs, rate, chosen.source)
    print(f"captioner: {chosen.out}; name it in caption.captioners as local-dir:{chosen.out.name}")
    return 0
