"""``python -m bioclip_lite <stage> [job]``: one stage, or one job of it, without Snakemake or DVC.

``python -m bioclip_lite <command>`` is about what has been made: COMMANDS.
"""

import errno
import faulthandler
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bioclip_lite.engines import forkserver_client
from bioclip_lite.utils.errors import UserError

if TYPE_CHECKING:
    import argparse

COMMANDS = {
    "status": "what is here, what both engines would do, and what to run next",
    "why": "what made a file, from what, and why it would or would not be made again",
    "push": "send artifacts to a remote; to a public one only photographs that may be published",
    "pull": "fetch artifacts from a remote, naming what is damaged there",
    "captioner": "train a small CoCa that describes photographs, or fine-tune one",
    "verify-cache": "embed some views again and compare them with the teacher cache",
    "predict": "name what is on photographs, as CSV",
    "compare": "which species one revision names better, and which worse, than another",
    "plan": "what a larger collection would take: shards, jobs, bytes and hours",
}
HINTS = {
    errno.ENOSPC: "the disk is full; free some space and run again: what was finished stays",
    errno.EDQUOT: "your quota is full; free some space and run again: what was finished stays",
    errno.EROFS: "the folder is read-only; run in a clone of your own",
    errno.EACCES: "you may not write there; ask its owner, or run in a clone of your own",
    errno.EISDIR: "it is a folder, and a file is meant",
    errno.ENOTDIR: "a part of it is a file, and a folder is meant",
}
TRAINING = ("teacher", "distill", "prune")  # the stages that several processes can share


def main() -> int:
    import argparse  # like the next two not at the top: a process that asks for a fork needs none of them

    from bioclip_lite import params as parameters
    from bioclip_lite.utils.files import check_place
    from bioclip_lite.utils.stage_names import STAGES

    faulthandler.enable(2)  # a crash in compiled code leaves in the log where it was
    began = time.monotonic()
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        return importlib.import_module(f"bioclip_lite.commands.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m bioclip_lite",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run one stage of the pipeline. `snakemake --cores all evaluate` runs them all, in order.",
        epilog="about what has been made (python -m bioclip_lite <command> --help):\n"
        + "\n".join(f"  {name:14}{does}" for name, does in COMMANDS.items()),
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("job", nargs="?", help="one job of the stage, e.g. train-00000; default: all of them")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument(
        "--section",
        type=json.loads,
        help="the parameters of the job as JSON, as Snakemake records them, in place of --params",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help=f"train with this many, one per GPU, or sharing the cores ({', '.join(TRAINING)}; default: 1)",
    )
    arguments = parser.parse_args()
    try:
        section = arguments.section
        if section is None:
            section = parameters.of_job(parameters.load(arguments.params), arguments.stage, arguments.job)
        check_place(arguments.data / arguments.stage / "output")

        def run() -> None:
            stage = importlib.import_module(f"bioclip_lite.stages.{arguments.stage}")
            started = _processor_seconds()
            stage.run(section, arguments.data, arguments.job)
            print(
                f"{arguments.stage}: took {time.monotonic() - began:.1f} s, {_processor_seconds():.1f} s of processor "
                f"time, {started:.1f} s of them to start",
                flush=True,
            )

        return _train_together(run, arguments) if arguments.processes != 1 else _alone(run)
    except UserError as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr)
        return getattr(error, "status", 1)
    except OSError as error:
        if error.errno not in HINTS:
            raise
        print(f"{arguments.stage}: {error}; {HINTS[error.errno]}", file=sys.stderr)
        return 1


def _processor_seconds() -> float:
    """That this process and those that it has started and seen end have used so far."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _alone(run: Callable[[], None]) -> int:
    run()
    return 0


def _train_together(run: Callable[[], None], arguments: "argparse.Namespace") -> int:
    """Start the processes, or be one of them."""
    if arguments.stage not in TRAINING or arguments.processes < 1:
        raise UserError(
            f"--processes {arguments.processes}: this stage runs with 1, {', '.join(TRAINING)} with 1 or more"
        )
    from bioclip_lite.training import distributed
    from bioclip_lite.utils import machine

    if distributed.launched():
        return distributed.work(run)
    threads = max(1, machine.cores() // arguments.processes)
    return distributed.launch(arguments.stage, arguments.processes, threads, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(forkserver_client.main_or_ask("bioclip_lite", main))
