"""The command line: ``bioclip-lite STAGE [JOB]`` and ``bioclip-lite COMMAND``; also as ``python -m bioclip_lite``.

A stage runs here without Snakemake and DVC. A command looks at what was made, shares it or uses it.
"""

import faulthandler
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bioclip_lite.engines import forkserver_client
from bioclip_lite.utils.errors import UserError, tell

if TYPE_CHECKING:
    import argparse


def main() -> int:
    # Not at the top: a process that asks for a fork needs neither argparse nor the parameters.
    from bioclip_lite.utils import command_line

    faulthandler.enable(2)  # after a crash in compiled code the log shows where it happened
    if sys.argv[1:] and sys.argv[1] in command_line.COMMANDS:
        return importlib.import_module(f"bioclip_lite.commands.{sys.argv[1].replace('-', '_')}").main(sys.argv[2:])
    parser = command_line.stage_parser()
    arguments = parser.parse_args(sys.argv[1:] or ["--help"])
    if arguments.stage in command_line.COMMANDS:
        parser.error(f"options of {arguments.stage} follow its name: {parser.prog} {arguments.stage} ...")
    try:
        return _run_stage(arguments)
    except Exception as error:
        return tell(arguments.stage, error)


def _run_stage(arguments: "argparse.Namespace") -> int:
    """Run a stage in one process or several, and return the exit status."""
    from bioclip_lite import params
    from bioclip_lite.utils.files import check_place

    start = time.monotonic()
    section = arguments.section
    if section is None:
        section = params.of_job(params.load(arguments.params), arguments.stage, arguments.job)
    check_place(arguments.data / arguments.stage / "output")

    def run() -> None:
        stage = importlib.import_module(f"bioclip_lite.stages.{arguments.stage}")
        imported = _processor_seconds()
        stage.run(section, arguments.data, arguments.job)
        print(
            f"{arguments.stage}: took {time.monotonic() - start:.1f} s, {_processor_seconds():.1f} s of processor "
            f"time, {imported:.1f} s of them to start, {_peak_megabytes():.0f} MB at most",
            flush=True,
        )

    if (arguments.processes, arguments.nodes) != (1, 1):
        return _train_together(run, arguments)
    run()
    return 0


def _processor_seconds() -> float:
    """Processor time of this process and of its children that have ended, in seconds."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak_megabytes() -> float:
    """Most memory that this process, or the largest of its children that have ended, has held, in MB.

    A fork of the server counts the libraries that it shares with the other jobs.
    """
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / 1e6 * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes, Linux kibibytes


def _train_together(run: Callable[[], None], arguments: "argparse.Namespace") -> int:
    """Launch the training processes, or be one of them."""
    from bioclip_lite.utils.command_line import TRAINING

    for option in ("processes", "nodes"):
        count = getattr(arguments, option)
        if count < 1 or (count > 1 and arguments.stage not in TRAINING):
            raise UserError(f"--{option} {count}: this stage runs with 1, {', '.join(TRAINING)} with 1 or more")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # for torch, which reads it first; lost processes are told of once
    from bioclip_lite.training import distributed, nodes
    from bioclip_lite.utils import machine

    if distributed.launched():
        distributed.work(run)
    nodes.start_by_slurm(arguments.nodes, arguments.meet, machine.cores(), sys.argv[1:])
    threads = max(1, machine.cores() // arguments.processes)
    return distributed.launch(
        arguments.stage, arguments.processes, arguments.nodes, arguments.meet, threads, sys.argv[1:]
    )


if __name__ == "__main__":
    sys.exit(forkserver_client.main_or_ask("bioclip_lite", main))
