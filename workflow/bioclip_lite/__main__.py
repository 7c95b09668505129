"""``python -m bioclip_lite <stage> [job]``: one stage, or one job of it, without Snakemake or DVC."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from bioclip_lite import params as parameters
from bioclip_lite.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bioclip_lite",
        description="Run one stage of the pipeline. `snakemake --cores all evaluate` runs them all, in order.",
    )
    parser.add_argument("stage", choices=parameters.STAGES)
    parser.add_argument("job", nargs="?", help="one job of the stage, e.g. train-00000; default: all of them")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all stage outputs (default: data)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument(
        "--section", type=json.loads, help="the stage's parameters as JSON, as Snakemake recorded them, not --params"
    )
    arguments = parser.parse_args()
    try:
        section = arguments.section or parameters.load(arguments.params)[arguments.stage]
        importlib.import_module(f"bioclip_lite.stages.{arguments.stage}").run(section, arguments.data, arguments.job)
    except UserError as error:
        print(f"{arguments.stage}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
