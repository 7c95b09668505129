"""The command line as a whole: its names, its commands by purpose, and the parser of the stages."""

import argparse
import json
import sys
from pathlib import Path

from bioclip_lite import __version__
from bioclip_lite.utils.stage_names import STAGES

SCRIPT = "bioclip-lite"
# By purpose, in the order of the help. Each command is a module in ``commands`` with ``parser`` and ``main``.
GROUPS = {
    "make a model": {
        "init": "look at your photographs and this machine, and write a params.yaml for them",
        "preset": "put the parameters, photographs and weights of a real data set in place",
        "captioner": "train or fine-tune a CoCa that describes photographs",
        "search": "try values of training parameters, with others on other machines, and write the best",
        "plan": "estimate shards, jobs, bytes and hours for a larger collection",
    },
    "look at what was made": {
        "status": "list the outputs, what Snakemake and DVC would do, and what to run next",
        "why": "show what made a file, and why it would or would not be made again",
        "compare": "list the species that one revision names better or worse than another",
        "verify-cache": "embed some views again and compare them with the teacher cache",
    },
    "work together": {
        "push": "send artifacts to a remote, to a public one only what may be published",
        "export-cache": "write the teacher cache as a data set, without photographs",
        "crate": "write a finished run, and how it was made, as one file for an archive",
        "pull": "fetch artifacts from a remote, and name what is damaged there",
    },
    "use a model": {
        "predict": "name what photographs show, in the forms of ecologists",
        "recalibrate": "fit thresholds again for your site, from answers that you confirmed",
        "relist": "make a bundle for another species list, without training",
        "verify": "check the signature of a bundle, and each of its files",
        "completion": "print a completion script for bash, zsh or fish",
    },
}
COMMANDS = {name: purpose for commands in GROUPS.values() for name, purpose in commands.items()}
TRAINING = ("teacher", "distill", "prune")  # the stages that several processes can share


def program() -> str:
    """The command that started this process, as usage lines show it: the console script or the module."""
    return SCRIPT if Path(sys.argv[0]).name == SCRIPT else "python -m bioclip_lite"


def new_parser(command: str, description: str) -> argparse.ArgumentParser:
    """An empty parser for the arguments of a command."""
    return argparse.ArgumentParser(prog=f"{program()} {command}", description=description)


def stage_parser() -> argparse.ArgumentParser:
    """The parser of ``bioclip-lite STAGE [JOB]``, whose help also lists the commands."""
    name = program()
    parser = argparse.ArgumentParser(
        prog=name,
        usage=f"{name} STAGE [JOB] [options]\n       {name} COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run one stage of the pipeline, or one of the commands listed below.\n"
        "`snakemake --cores all evaluate` runs all stages in order.",
        epilog="\n\n".join(
            f"{title}:\n" + "\n".join(f"  {command:14}{purpose}" for command, purpose in commands.items())
            for title, commands in GROUPS.items()
        )
        + f"\n\n`{name} COMMAND --help` lists the arguments of a command.",
    )
    parser.add_argument("--version", action="version", version=f"bioclip-lite {__version__}")
    # The usage names commands too, so a misspelt command is told all the names it could have been.
    parser.add_argument("stage", metavar="STAGE", choices=(*STAGES, *COMMANDS), help=", ".join(STAGES))
    add_stage_arguments(parser)
    return parser


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``bioclip-lite STAGE`` takes after the name of the stage."""
    parser.add_argument(
        "job", metavar="JOB", nargs="?", help="one job of the stage, e.g. train-00000 (default: all its jobs)"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="file of all parameters (default: params.yaml)"
    )
    parser.add_argument(
        "--section", type=json.loads, help="parameters of this stage as JSON, in place of --params; used by Snakemake"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help=f"training processes, one per GPU or sharing the cores; for {', '.join(TRAINING)} (default: 1)",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        help="computers that run this command at the same time, with --processes on each (default: 1)",
    )
    parser.add_argument(
        "--meet",
        metavar="HOST:PORT",
        help="where the --nodes find each other: a host among them and a port free there (default: SLURM's first node)",
    )
