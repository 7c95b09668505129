import gc
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from snakemake.dag import DAG
from snakemake.exceptions import MissingInputException, WorkflowError
from snakemake.logging import logger
from snakemake.shell import shell

# Jobs run the package of this checkout, with the Python that runs Snakemake, activated or not.
PACKAGE = str(Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent)
PROGRAMS = str(Path(sys.executable).parent)
os.environ.update(PYTHONPATH=PACKAGE, PATH=os.pathsep.join([PROGRAMS, os.getenv("PATH", os.defpath)]))
sys.path.insert(0, PACKAGE)
# Where a signal ends a job, bash prints the whole command. Through a function whose output is redirected, it prints to
# the job's log and not between the lines of this run.
shell.prefix('set -euo pipefail; python() {{ command python "$@"; }}; ')

from bioclip_lite import params as parameters
from bioclip_lite.engines import run_cache, snakemake_config, stage_code
from bioclip_lite.engines.dvc_yaml import ledger_path
from bioclip_lite.engines.stage_code import of_jobs as code  # a change in what these files mean runs the job again
from bioclip_lite.engines.sync import sync
from bioclip_lite.sources.registry import find_source
from bioclip_lite.teacher_cache.ensemble import FIRST, teacher_sections
from bioclip_lite.texts.captions import synthetic
from bioclip_lite.utils import gpus, job_names
from bioclip_lite.utils.errors import UserError
from bioclip_lite.utils.stage_names import STAGES
from bioclip_lite.evaluation.variant_names import further_teacher, members, variants

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
        # A graph of jobs is millions of objects, none of them garbage, and Python would look through them every
        # 700 new ones.
        gc.set_threshold(200_000, 20, 20)
        given = workflow.config_settings
        snakemake_config.refuse_changes(config, given.configfiles, given.config, given.replace_workflow_config)
        for line in parameters.warnings(config):
            logger.warning(f"warning: {line}")
    # `snakemake --lint` reads the rules and must leave the folder as it is.
    SYNCED = sync() if workflow.is_main_process and "--lint" not in sys.argv else None
except UserError as error:
    raise WorkflowError(str(error))
except OSError as error:
    raise WorkflowError(f"{error}: the state of this folder cannot be read or written; is its disk full or read-only?")

MANIFESTS = "data/shard/manifest"
FETCHED = set()  # stages whose earlier results were fetched, as far as there are any
SPLITS = [split for split, count in config["shard"]["counts"].items() if count]
LABELLED = [split for split in SPLITS if split != "unlabelled"]
TEACHERS = teacher_sections(config["teacher"])
STUDENT = ["student.json", "model.safetensors", "preprocess.json"]
CAPTIONER = ["captioner.json", "open_clip_config.json", "open_clip_model.safetensors"]
TEACHER = [
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "preprocess.json",
    "teacher.json",
    "text_tokenizer.json",
]


wildcard_constraints:
    **{
        field: job_names.FIELDS[field]
        for field in ("part", "shard", "captioner", "teacher", "suite", "variant", "list")
    },
    split="[a-z]+",


def section(stage, job=None):
    """The parameters that a job reads, as JSON: its one argument, which Snakemake records."""
    return json.dumps(parameters.of_job(config, stage, job), sort_keys=True)


def shards(*splits):
    """Names of the shards of some splits, from params.yaml alone."""
    counts = config["shard"]["counts"]
    return [f"{split}-{n:05d}" for split in splits for n in range(counts[split])]


def half_of_the_cores(wildcards):
    """Threads of jobs that come in pairs, at most 8: side by side two such jobs finish earlier than one after the other,
    since a small network gains little from a second core.

    A job on a cluster has a node of its own, and asks for 8.
    """
    cores = workflow.resource_settings.cores
    here = workflow.is_main_process and workflow.local_exec and cores
    return max(1, min(8, cores // 2)) if here else 8


def cores_of_a_gpu(wildcards):
    """Threads of jobs that embed a shard on a GPU, which waits for decoded photographs: as many as leave one job to each
    GPU, at most 8.

    Without a GPU one core embeds a shard, and there are as many shards at once as cores. A job on a cluster has what its
    profile says.
    """
    cores, count = workflow.resource_settings.cores, len(gpus.visible())
    here = workflow.is_main_process and workflow.local_exec and cores
    return max(1, min(8, cores // count)) if here and count else 1


def weights(name):
    """A file of initial weights as an input; none if the parameter is null or no file in data/weights."""
    path = f"data/weights/{name}"
    return [path] if name and Path(path).is_file() else []


def ready(environment, lock):
    """The file that marks an environment as made from this version of its lock file."""
    with open(lock, "rb") as file:
        return f"{environment}/ready-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def sources_mark(package, names):
    """The file that marks dist as compiled from these sources; bin/built.mjs computes the same."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(b"\0".join([name.encode(), Path(package, name).read_bytes(), b""]))
    return f"{package}/dist/core/ready-{digest.hexdigest()[:12]}"


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


def in_lists(*names):
    """The files in data/lists that some parameters of section index name."""
    return [f"data/lists/{config['index'][name]}" for name in names if config["index"][name]]


def downloaded_before(part):
    """The mark of the part before this one; none for the first."""
    return expand("data/index/downloads/{part}.json", part=DOWNLOADED[: DOWNLOADED.index(part)][-1:])


def listed(path):
    """``path`` as the input of one shard's job, which Snakemake evaluates again once the manifests are written."""

    def input(wildcards):
        checkpoints.list_shards.get()
        return path.format(shard=wildcards.shard)

    return input


def described(captioners, *splits):
    """The captions that some captioners wrote for the photographs of some splits."""
    return expand("data/caption/{captioner}/{shard}.parquet", captioner=captioners, shard=shards(*splits))


def captioner_files(wildcards):
    """The files of a captioner: its fine-tuned model, or those in data/weights."""
    if CAPTIONERS[wildcards.captioner].get("fine_tuning"):
        return expand(f"data/caption/{wildcards.captioner}/model/{{file}}", file=CAPTIONER)
    return captioner_weights(wildcards)


def captioner_weights(wildcards):
    """The files of a captioner in data/weights; none if they come from the hub."""
    return published_files(CAPTIONERS[wildcards.captioner])


def caption_set(captioner, part):
    """The file with the ``captions`` of a captioner's caption set, or the folder of its ``images``."""
    return f"data/captions/{CAPTIONERS[captioner]['fine_tuning'][part]}"


def published_files(chosen):
    """The files on this machine, outside the hub's cache, of an open_clip model that parameters name."""
    kind, _, folder = chosen["model"].partition(":")
    if kind == "local-dir":
        return [str(path) for path in sorted(Path("data/weights", folder).glob("open_clip_*"))]
    return [*weights(chosen["model"]), *weights(chosen.get("weights"))]


def locked_files(lit):
    """The files of the image tower of a LiT teacher."""
    tower = lit["image_tower"]
    return weights(lit["weights"]) if isinstance(tower, str) else published_files(tower)


def tuned_files(lit):
    """The files of the text tower that a LiT teacher starts from."""
    return published_files(lit["text_tower"]) if isinstance(lit["text_tower"], dict) else []


def teacher_files(wildcards):
    """The model of the teacher whose cache this is."""
    return expand(f"data/teacher/{Path(wildcards.cache).name or FIRST}/{{file}}", file=TEACHER)


def teacher_inputs(wildcards):
    """The inputs of a teacher's training besides its code, by the kind of the teacher."""
    name = wildcards.get("teacher", FIRST)
    teacher = TEACHERS[name]
    kind = teacher["kind"]
    if kind == "pretrained":
        return published_files(teacher["pretrained"])
    learned = ["train"] if kind == "lit" else [split for split in teacher[kind]["splits"] if split in SPLITS]
    splits = [*learned, "val"]
    texts = [
        *expand("data/caption/{shard}.parquet", shard=shards(*splits)),
        *described([name for name in teacher["captions"] if name in CAPTIONERS], *splits),
        "data/shard/sizes.json",
    ]
    if kind == "lit":
        return [*features(name), *texts, *locked_files(teacher["lit"]), *tuned_files(teacher["lit"])]
    photographs = [*expand("data/shard/{shard}.tar", shard=shards(*splits)), *texts, "data/index/taxa.parquet"]
    return [*initial(name), *initial_weights(teacher["open_clip"]), *photographs] if initial(name) else photographs


def initial(teacher):
    """The description of the initial weights of a teacher of kind open_clip; none for teachers of other kinds."""
    return [f"data/teacher/initial/{teacher}.json"] if TEACHERS[teacher]["kind"] == "open_clip" else []


def initial_weights(section):
    """The files in data/weights that section teacher.open_clip names."""
    return [*weights(section["model"]), *weights(section["pretrained"])]


def features(teacher):
    """The features of the locked image tower of a LiT teacher; none for teachers of other kinds."""
    names = shards("train", "val") if TEACHERS[teacher]["kind"] == "lit" else []
    return expand("data/teacher/features/{teacher}/{shard}.safetensors", teacher=teacher, shard=names)


def seen(variant, shards):
    """What a variant reads of some shards: the labels, and the caches or the photographs."""
    caches = [cache_of(teacher) for teacher in CACHED_BY.get(variant, [])]
    return [
        *expand("data/shard/{shard}.tar", shard=shards),
        *expand("data/logits/{cache}{shard}.safetensors", cache=caches, shard=shards),
    ]


def read_by(variant):
    """What the costs of a variant are measured on, and what it is probed with."""
    teachers = CACHED_BY.get(variant, [])
    models = expand("data/teacher/{teacher}/{file}", teacher=teachers, file=TEACHER)
    if variant != "teacher":
        return models
    # Where texts are, the photographs that they are said of are looked up. With an input named twice, here and by
    # `seen`, the set of inputs would not be that in the ledger.
    return [*models, *READ, *expand("data/shard/{shard}.tar", shard=[] if AT_ONCE else TESTED)]


def ledgers(stage):
    """Input of a stage's target: the ledgers of all stages up to it, so that each of them is recorded.

    Snakemake evaluates this input when it knows the targets and has not looked at any file, so earlier results are
    fetched here.
    """
    stages = STAGES[: STAGES.index(stage) + 1]

    def input(wildcards):
        fetch(stages)
        if manifests_stay():
            checkpoints.created_output.add(MANIFESTS)
            workflow.get_rule("list_shards").is_checkpoint = False  # no job has to wait for it
        return [ledger_path(name) for name in stages]

    return input


def manifests_stay():
    """Whether Snakemake would leave the manifests as they are, by a graph of the few jobs that lead to them.

    If it found that out by the graph of all jobs, it would make those of every shard twice, and look at all files in
    between: nearly half of the time of a run that has nothing to do.
    """
    if workflow.dag.job_cache or not os.path.isdir(MANIFESTS):
        return False  # jobs that were made already, of another target, may be waiting for the manifests
    dag = DAG(
        workflow,
        workflow.rules,
        targetfiles={MANIFESTS},
        targetrules=[],
        forcerules=workflow.dag.forcerules,  # by a person, e.g. with --forcerun
        forcefiles=workflow.dag.forcefiles,
    )
    try:
        with ThreadPoolExecutor(1) as pool:  # this thread is in the midst of making the graph of all jobs
            pool.submit(workflow.async_run, dag.init()).result()
    except MissingInputException:  # their inputs were not pulled; the graph of all jobs takes them as they are
        return False
    return not any(dag.needrun_jobs())


def fetch(stages):
    """Fetch earlier results of stages, once, and only in a run that would otherwise make them."""
    new = set(stages) - FETCHED
    FETCHED.update(new)
    runs = workflow.executor_plugin is not None and not workflow.dryrun and not workflow.touch
    forced = workflow.dag_settings.forceall or workflow.dag_settings.forcetargets or workflow.dag_settings.forcerun
    if SYNCED and new and runs and not forced:
        run_cache.store()
        if run_cache.fetch(stages, *SYNCED):
            sync()
