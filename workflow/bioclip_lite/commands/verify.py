"""``python -m bioclip_lite verify BUNDLE --key PUBLIC``: check that a bundle is as its maker signed it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import command
from bioclip_lite.utils.command_line import new_parser
from bioclip_lite.web import manifest


def parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "verify",
        "Check the signature of a bundle or text encoder (see convert.sign_with) and the SHA-256 of each of its files.",
    )
    parser.add_argument("bundle", type=Path, help="folder with bundle.json or text.json")
    parser.add_argument("--key", type=Path, required=True, help="public key of the maker: Ed25519, PEM")
    return parser


@command("verify")
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    key = manifest.read_public_key(options.key)
    names = manifest.verify(options.bundle, key)
    print(f"verify: {options.bundle} is signed by key {manifest.fingerprint(key)}, {len(names)} files unchanged")
    signed = {*names, f"{names[0]}{manifest.SIGNATURE}"}
    others = sorted({file.name for file in options.bundle.iterdir() if not file.name.startswith(".")} - signed)
    if others:
        print(f"verify: the signature says nothing of {', '.join(others)}, which no program reads with the bundle")
    return 0
