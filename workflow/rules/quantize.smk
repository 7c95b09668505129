GRAPH = ["graph.json", "weights.safetensors", "preprocess.json"]


rule quantize_student:
    input:
        code("quantize"),
        expand("data/shard/{shard}.tar", shard=shards("calibration")),
        model=expand("data/prune/model/{file}", file=STUDENT),
        sizes="data/shard/sizes.json",
    output:
        expand("data/quantize/model/{file}", file=GRAPH),
        "data/quantize/report.json",
    log:
        "logs/quantize/quantize.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        section=section("quantize"),
    shell:
        "python -m bioclip_lite quantize --section {params.section:q} > {log} 2>&1"


rule record_quantize:
    input:
        rules.quantize_student.output,
    output:
        ledger_path("quantize"),
    log:
        "logs/quantize/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger quantize > {log} 2>&1"


rule quantize:
    input:
        ledgers("quantize"),
