rule prune_student:
    input:
        code("prune"),
        model=DISTILLED,
        data=cached("train", "val", teachers=config["distill"]["teachers"]),
    output:
        expand("data/prune/model/{file}", file=STUDENT),
        "data/prune/report.json",
    log:
        "logs/prune/prune.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=1440,
        nodes=1,
        processes=1,
        gpu=0,
    params:
        section=section("prune"),
    shell:
        "python -m bioclip_lite prune --section {params.section:q} --nodes {resources.nodes} "
        "--processes {resources.processes} > {log} 2>&1"


rule record_prune:
    input:
        rules.prune_student.output,
    output:
        ledger_path("prune"),
    log:
        "logs/prune/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger prune > {log} 2>&1"


rule prune:
    input:
        ledgers("prune"),
