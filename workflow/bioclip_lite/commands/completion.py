"""``bioclip-lite completion SHELL``: a script with which a shell completes stages, commands, options and files."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from bioclip_lite.commands.common import command
from bioclip_lite.utils.command_line import COMMANDS, SCRIPT, add_stage_arguments, new_parser
from bioclip_lite.utils.stage_names import STAGES


def parser() -> argparse.ArgumentParser:
    result = new_parser("completion", "Print a completion script. Save it where the shell looks for completions.")
    result.add_argument("shell", choices=("bash", "zsh", "fish"))
    return result


def whole_parser() -> argparse.ArgumentParser:
    """The whole command line as one parser, with a subparser for each stage and each command.

    Slow, because it imports every command; ``__main__`` imports only the one that is called.
    """
    whole = argparse.ArgumentParser(prog=SCRIPT)
    whole.add_argument("--version", action="store_true", help="print the version")
    subparsers = whole.add_subparsers()
    for stage in STAGES:
        add_stage_arguments(subparsers.add_parser(stage, help=f"run stage {stage}"))
    for name, purpose in COMMANDS.items():
        module = importlib.import_module(f"bioclip_lite.commands.{name.replace('-', '_')}")
        subparsers.add_parser(name, help=purpose, parents=[module.parser()], add_help=False)
    return whole


@command("completion")
def main(arguments: Sequence[str] | None = None) -> int:
    import shtab

    shell = parser().parse_args(arguments).shell
    whole = whole_parser()
    _complete_files(whole, shtab.FILE)
    print(shtab.complete(whole, shell=shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Have paths completed, in ``parser`` and in its subparsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_files(subparser, files)
        elif action.type is Path or action.dest in ("images", "file", "targets"):
            action.complete = files  # type: ignore[attr-defined]
