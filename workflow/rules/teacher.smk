rule make_teacher:
    input:
        code("stages.teacher"),
        data=teacher_inputs,
    output:
        expand("data/teacher/model/{file}", file=TEACHER),
        "data/teacher/history.parquet",
    log:
        "logs/teacher/teacher.log",
    # Before anything else where it can be: weights that cannot be had stop the run in its first seconds.
    priority: 1
    threads: 8
    resources:
        mem_mb=8000,
        runtime=1440,
        processes=1,
        gpu=0,
    params:
        section=section("teacher"),
    shell:
        "python -m bioclip_lite teacher --section {params.section:q} --processes {resources.processes} > {log} 2>&1"


rule record_teacher:
    input:
        rules.make_teacher.output,
    output:
        provenance.ledger("teacher"),
    log:
        "logs/teacher/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance teacher {input} > {log} 2>&1"


rule teacher:
    input:
        ledgers("teacher"),
