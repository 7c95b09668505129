# Entry point. `snakemake --cores all evaluate` and `dvc repro` run the same graph: the command of each DVC stage is
# the Snakemake target of the same name.
from snakemake.utils import min_version

min_version("9.27")


# The text on the first page of `snakemake --report`.
report: "workflow/report/workflow.rst"


# For `--software-deployment-method apptainer`; ignored otherwise. Built from the .def file beside it.
container: "workflow/apptainer/bioclip-lite.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/shard.smk"
include: "workflow/rules/caption.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/logits.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/evaluate.smk"


# Of plain `snakemake`. Here, since a file that is included cannot name it.
rule all:
    default_target: True
    input:
        rules.evaluate.input,


# Jobs that use torch import it once, together. On a cluster each runs on a node of its own.
onstart:
    torch = stage_code.with_module("workflow/bioclip_lite/models/students.py")
    uses_torch = [job for job in workflow.dag.needrun_jobs() if not torch.isdisjoint(job.input)]
    if workflow.local_exec and len(uses_torch) > 1:
        from bioclip_lite.engines import forkserver

        forkserver.start()


onsuccess:
    from bioclip_lite.engines.commit import commit

    finished = {job.rule.name for job in workflow.dag.finished_jobs}
    commit({job.rule.name for job in workflow.dag.jobs}, finished)
    if "write_report" in finished:
        logger.info("The report is in data/evaluate/report.html")
