import hashlib
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.shell import shell

# Jobs run the package of this checkout, with the Python that runs Snakemake, activated or not.
PACKAGE = str(Path(workflow.basedir) / "workflow")
os.environ["PYTHONPATH"] = PACKAGE
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
sys.path.insert(0, PACKAGE)
# A job that a signal ends: bash says so, with the whole command, where the redirection of a function sends it: to the
# job's log, not between the lines of this run.
shell.prefix('set -euo pipefail; python() {{ command python "$@"; }}; ')

from bioclip_lite import params as parameters
from bioclip_lite.engines import run_cache, snakemake_config
from bioclip_lite.engines.dvc_yaml import ledger_path
from bioclip_lite.engines.stage_code import code  # a change in what these files mean runs the job again
from bioclip_lite.engines.sync import sync
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.stage_names import STAGES
from bioclip_lite.evaluation.variant_names import further_teacher, variants

try:
    # In place of `configfile:`, which reads YAML otherwise than DVC does.
    config = parameters.load(Path("params.yaml"))
    workflow.configfiles.append("params.yaml")
    parameters.check_sources(config)
    for suite in config["evaluate"]["suites"]:
        from bioclip_lite.suites.formats import find_format

        find_format(suite["format"])
    # Only the coordinating process gets options from a person and touches file times; jobs on a cluster parse this too.
    if workflow.is_main_process:
        given = workflow.config_settings
        snakemake_config.refuse_changes(config, given.configfiles, given.config, given.replace_workflow_config)
    FOUND = sync() if workflow.is_main_process else None
except UserError as error:
    raise WorkflowError(str(error))
except OSError as error:
    raise WorkflowError(f"{error}: the state of this folder cannot be read or written; is its disk full or read-only?")

ASKED = set()
SPLITS = [split for split, count in config["shard"]["counts"].items() if count]
TEACHERS = teacher_sections(config["teacher"])
STUDENT = ["student.json", "model.safetensors", "preprocess.json"]
TEACHER = ["open_clip_config.json", "open_clip_model.safetensors", "preprocess.json", "teacher.json"]


wildcard_constraints:
    split="[a-z]+",
    shard=r"[a-z]+-\d{5}",
    variant="[a-z0-9]+",
    suite="[a-z0-9_-]+",


def section(stage, job=None):
    """The parameters that a job reads, as JSON: its one argument, which Snakemake records."""
    return json.dumps(parameters.of_job(config, stage, job), sort_keys=True)


def shards(*splits):
    """Names of the shards of some splits, from params.yaml alone."""
    counts = config["shard"]["counts"]
    return [f"{split}-{n:05d}" for split in splits for n in range(counts[split])]


def half_of_the_cores(wildcards):
    """Threads of jobs that come in pairs, at most 8: two such jobs, side by side, need the whole machine for less time
    than one after the other, since a small network gains little from a second core.

    A job on a cluster has a node of its own, and asks for 8.
    """
    cores = workflow.resource_settings.cores
    here = workflow.is_main_process and workflow.local_exec and cores
    return max(1, min(8, cores // 2)) if here else 8


def weights(name):
    """A file of initial weights as an input; none if the parameter is null or no file in data/weights."""
    path = f"data/weights/{name}"
    return [path] if name and Path(path).is_file() else []


def ready(environment, lock):
    """The file that marks an environment as made from this version of its lock file."""
    with open(lock, "rb") as file:
        return f"{environment}/ready-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def cache_of(teacher):
    """Where a teacher's cache lies in data/logits: the first one's there itself, of others in a folder of its name."""
    return "" if teacher == FIRST else f"{teacher}/"


def cached(*splits, teachers=(FIRST,)):
    """The caches of some teachers and the photographs they belong to."""
    caches = [cache_of(teacher) for teacher in teachers]
    return [
        *expand("data/shard/{shard}.tar", shard=shards(*splits)),
        *expand("data/logits/{cache}{shard}.safetensors", cache=caches, shard=shards(*splits)),
        "data/shard/sizes.json",
        *expand("data/logits/{cache}taxa.safetensors", cache=caches),
        "data/index/taxa.parquet",
    ]


def teacher_inputs(wildcards):
    """What a teacher of the chosen kind reads besides its code."""
    name = wildcards.get("teacher", FIRST)
    teacher = TEACHERS[name]
    kind = teacher["kind"]
    if kind == "pretrained":
        return weights(teacher["pretrained"]["weights"])
    splits = [*(split for split in teacher["train"]["splits"] if split in SPLITS), "val"]
    if kind == "lit":
        splits = ["train", "val"]
    texts = [
        *expand("data/caption/{shard}.parquet", shard=shards(*splits)),
        *described([name for name in teacher["captions"] if name in CAPTIONERS], *splits),
        "data/shard/sizes.json",
    ]
    if kind == "lit":
        return [*features(name), *texts, *weights(teacher["lit"]["weights"])]
    return [*expand("data/shard/{shard}.tar", shard=shards(*splits)), *texts, "data/index/taxa.parquet"]


def features(teacher):
    """What the locked image tower of a LiT teacher makes of the photographs; none of other kinds."""
    names = shards("train", "val") if TEACHERS[teacher]["kind"] == "lit" else []
    return expand("data/teacher/features/{teacher}/{shard}.safetensors", teacher=teacher, shard=names)


def ledgers(stage):
    """What a stage's target asks for: the ledgers of all stages up to it, so that none of them stays unrecorded.

    Asking for them is the moment to fetch what has been made before: the targets are known by then, and no file has
    been looked at yet.
    """
    stages = STAGES[: STAGES.index(stage) + 1]

    def input(wildcards):
        fetch(stages)
        return [ledger_path(name) for name in stages]

    return input


def fetch(stages):
    """Fetch, once, and only in a run that would otherwise make something."""
    asked = set(stages) - ASKED
    ASKED.update(asked)
    runs = workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch
    forced = workflow.dag_settings.forceall or workflow.dag_settings.forcetargets or workflow.dag_settings.forcerun
    if FOUND and asked and runs and not forced:
        run_cache.store()
        if run_cache.fetch(stages, *FOUND):
            sync()
