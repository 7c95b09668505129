FURTHER = [teacher for teacher in TEACHERS if teacher != "model"]


# A locked tower says the same of a photograph for ever, so tuning a text tower to it reads no photographs.
rule embed_locked:
    input:
        code("teacher"),
        lambda wildcards: locked_files(TEACHERS[wildcards.teacher]["lit"]),
        tar=listed("data/shard/{shard}.tar"),
    output:
        "data/teacher/features/{teacher}/{shard}.safetensors",
    log:
        "logs/teacher/features/{teacher}/{shard}.log",
    threads: cores_of_a_gpu
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        section=lambda wildcards: section("teacher", f"features/{wildcards.teacher}/{wildcards.shard}"),
    shell:
        "python -m bioclip_lite teacher features/{wildcards.teacher}/{wildcards.shard} --section {params.section:q} "
        "> {log} 2>&1"


# What a training by open_clip_train begins with: no photographs are needed to find that it cannot be had.
rule find_initial:
    input:
        code("teacher"),
        lambda wildcards: initial_weights(TEACHERS[wildcards.teacher]["open_clip"]),
    output:
        "data/teacher/initial/{teacher}.json",
    log:
        "logs/teacher/initial/{teacher}.log",
    priority: 1
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        section=lambda wildcards: section("teacher", f"initial/{wildcards.teacher}"),
    shell:
        "python -m bioclip_lite teacher initial/{wildcards.teacher} --section {params.section:q} > {log} 2>&1"


rule make_teacher:
    input:
        code("teacher"),
        data=teacher_inputs,
    output:
        expand("data/teacher/model/{file}", file=TEACHER),
        "data/teacher/history.parquet",
    log:
        "logs/teacher/model.log",
    # Before anything else where it can be: weights that cannot be had stop the run in its first seconds.
    priority: 1
    threads: 8
    resources:
        mem_mb=8000,
        runtime=1440,
        nodes=1,
        processes=1,
        gpu=0,
    params:
        section=section("teacher", FIRST),
    shell:
        "python -m bioclip_lite teacher model --section {params.section:q} --nodes {resources.nodes} "
        "--processes {resources.processes} > {log} 2>&1"


# The others of an ensemble.
rule make_further_teacher:
    input:
        code("teacher"),
        data=teacher_inputs,
    output:
        expand("data/teacher/{{teacher}}/{file}", file=[*TEACHER, "history.parquet"]),
    log:
        "logs/teacher/{teacher}.log",
    wildcard_constraints:
        teacher="|".join(FURTHER) or "none",
    priority: 1
    threads: 8
    resources:
        mem_mb=8000,
        runtime=1440,
        nodes=1,
        processes=1,
        gpu=0,
    params:
        section=lambda wildcards: section("teacher", wildcards.teacher),
    shell:
        "python -m bioclip_lite teacher {wildcards.teacher} --section {params.section:q} "
        "--nodes {resources.nodes} --processes {resources.processes} > {log} 2>&1"


rule record_teacher:
    input:
        rules.make_teacher.output,
        expand(rules.make_further_teacher.output, teacher=FURTHER),
        [path for teacher in TEACHERS for path in [*features(teacher), *initial(teacher)]],
    output:
        ledger_path("teacher"),
    log:
        "logs/teacher/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger teacher > {log} 2>&1"


rule teacher:
    input:
        ledgers("teacher"),
