CACHED = shards("train", "val", "calibration", "test")


rule embed_taxa:
    input:
        code("stages.logits"),
        teacher=rules.make_teacher.output[: len(TEACHER)],
        taxa="data/index/taxa.parquet",
    output:
        "data/logits/taxa.safetensors",
    log:
        "logs/logits/taxa.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        section=section("logits"),
    shell:
        "python -m bioclip_lite logits taxa --section {params.section:q} > {log} 2>&1"


rule embed_shard:
    input:
        code("stages.logits"),
        teacher=rules.make_teacher.output[: len(TEACHER)],
        tar=listed("data/shard/{shard}.tar"),
    output:
        "data/logits/{shard}.safetensors",
    log:
        "logs/logits/{shard}.log",
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        section=section("logits"),
    shell:
        "python -m bioclip_lite logits {wildcards.shard} --section {params.section:q} > {log} 2>&1"


rule record_logits:
    input:
        expand("data/logits/{shard}.safetensors", shard=CACHED),
        rules.embed_taxa.output,
    output:
        provenance.ledger("logits"),
    log:
        "logs/logits/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance logits {input} > {log} 2>&1"


rule logits:
    input:
        ledgers("logits"),
