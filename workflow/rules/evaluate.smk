# What each variant is made of, besides the test photographs and the taxa.
TAUGHT = [
    *expand("data/teacher/model/{file}", file=TEACHER),
    *expand("data/logits/{shard}.safetensors", shard=shards("calibration", "test")),
]
VARIANTS = {
    "teacher": TAUGHT,
    "table": [*TAUGHT, "data/convert/tfjs"],
    "student": DISTILLED,
    "pruned": expand("data/prune/model/{file}", file=STUDENT),
    "int8": expand("data/quantize/model/{file}", file=GRAPH),
    "tfjs": ["data/convert/tfjs", *expand("data/quantize/model/{file}", file=GRAPH), *NODE_CODE, NODE_LOCK],
    "control": expand("data/distill/control/{file}", file=STUDENT),
    "majority": [],
    "random": [],
}


rule predict:
    input:
        code("stages.evaluate"),
        expand("data/shard/{shard}.tar", shard=shards("calibration", "test")),
        lambda wildcards: ancient(NODE_ENV) if wildcards.variant == "tfjs" else [],
        model=lambda wildcards: VARIANTS[wildcards.variant],
        text="data/logits/taxa.safetensors",
        taxa="data/index/taxa.parquet",
        sizes="data/shard/sizes.json",
    output:
        "data/evaluate/predictions/{variant}.safetensors",
        "data/evaluate/predictions/{variant}.json",
    log:
        "logs/evaluate/{variant}.log",
    # Latency is measured here, with one thread: as many are asked for as elsewhere, so that jobs do not share a core.
    threads: 8
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        section=section("evaluate"),
    shell:
        "python -m bioclip_lite evaluate {wildcards.variant} --section {params.section:q} > {log} 2>&1"


rule write_report:
    input:
        code("stages.evaluate"),
        expand("data/evaluate/predictions/{variant}.{file}", variant=VARIANTS, file=["safetensors", "json"]),
        expand("data/shard/{shard}.tar", shard=shards("test")),
        samples="data/index/samples.parquet",
        taxa="data/index/taxa.parquet",
        sizes="data/shard/sizes.json",
    output:
        "data/evaluate/metrics.json",
        "data/evaluate/report.html",
        "data/evaluate/MODEL_CARD.md",
        directory("data/evaluate/plots"),
    log:
        "logs/evaluate/report.log",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        section=section("evaluate"),
    shell:
        "python -m bioclip_lite evaluate report --section {params.section:q} > {log} 2>&1"


rule record_evaluate:
    input:
        rules.write_report.output,
        expand("data/evaluate/predictions/{variant}.{file}", variant=VARIANTS, file=["safetensors", "json"]),
    output:
        provenance.ledger("evaluate"),
    log:
        "logs/evaluate/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance evaluate {input} > {log} 2>&1"


rule evaluate:
    default_target: True
    input:
        ledgers("evaluate"),
