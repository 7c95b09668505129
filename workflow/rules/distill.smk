# What is pruned and shipped is data/distill/model; with a second stage it is that stage's.
FIRST_STAGE = "first" if config["distill"]["finetune"]["epochs"] else "model"
DISTILLED = expand("data/distill/model/{file}", file=STUDENT)
TEXT_TOWER = expand("data/distill/text/{file}", file=["text.json", "model.safetensors"])


# Several processes train as one: --set-resources train_student:processes=4 train_student:gpu=4 gives each a GPU. They
# are processes on each of `nodes`, see docs/working-together.md.
rule train_student:
    input:
        code("distill"),
        weights(config["distill"]["weights"]),
        data=cached(*config["distill"]["splits"], "val", teachers=config["distill"]["teachers"]),
        texts=["data/logits/texts.safetensors", *SYNTHETIC] if TEXTS else [],
    output:
        expand(f"data/distill/{FIRST_STAGE}/{{file}}", file=STUDENT),
        "data/distill/history.parquet",
        TEXT_TOWER if TEXTS else [],
    log:
        "logs/distill/student.log",
    threads: half_of_the_cores  # the control trains beside it
    resources:
        mem_mb=8000,
        runtime=2880,
        nodes=1,
        processes=1,
        gpu=0,
    params:
        section=section("distill", "student"),
    shell:
        "python -m bioclip_lite distill student --section {params.section:q} --nodes {resources.nodes} "
        "--processes {resources.processes} > {log} 2>&1"


if config["distill"]["finetune"]["epochs"]:

    rule finetune_student:
        input:
            code("distill"),
            student=rules.train_student.output[: len(STUDENT)],
            data=cached("train", "val"),
        output:
            DISTILLED,
            "data/distill/finetune.parquet",
            "data/distill/interpolation.json",
        log:
            "logs/distill/finetune.log",
        threads: 8
        resources:
            mem_mb=8000,
            runtime=1440,
            nodes=1,
            processes=1,
            gpu=0,
        params:
            section=section("distill", "finetune"),
        shell:
            "python -m bioclip_lite distill finetune --section {params.section:q} --nodes {resources.nodes} "
            "--processes {resources.processes} > {log} 2>&1"


# The control of every claim about distillation: the same student, images, views and steps, but labels for a teacher.
if config["distill"]["control"]:

    rule train_control:
        input:
            code("distill"),
            weights(config["distill"]["weights"]),
            data=cached("train", "val"),
        output:
            expand("data/distill/control/{file}", file=STUDENT),
            "data/distill/control/history.parquet",
        log:
            "logs/distill/control.log",
        threads: half_of_the_cores
        resources:
            mem_mb=8000,
            runtime=2880,
            nodes=1,
            processes=1,
            gpu=0,
        params:
            section=section("distill", "control"),
        shell:
            "python -m bioclip_lite distill control --section {params.section:q} --nodes {resources.nodes} "
            "--processes {resources.processes} > {log} 2>&1"


rule record_distill:
    input:
        rules.train_student.output,
        rules.finetune_student.output if config["distill"]["finetune"]["epochs"] else [],
        rules.train_control.output if config["distill"]["control"] else [],
    output:
        ledger_path("distill"),
    log:
        "logs/distill/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger distill > {log} 2>&1"


rule distill:
    input:
        ledgers("distill"),
