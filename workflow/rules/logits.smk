CACHED = shards("train", "val", "calibration", "test")


def view_section():
    """What the views of photographs depend on: another prompt embeds none of them again."""
    views = {name: value for name, value in config["logits"].items() if name not in ("prompt", "templates")}
    return json.dumps(views, sort_keys=True)


rule embed_taxa:
    input:
        code("stages.logits"),
        teacher=rules.make_teacher.output[: len(TEACHER)],
        taxa="data/index/taxa.parquet",
        captions=["data/caption/val-00000.parquet"] if config["logits"]["prompt"] == "lit" else [],
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
        section=view_section(),
    shell:
        "python -m bioclip_lite logits {wildcards.shard} --section {params.section:q} > {log} 2>&1"


# How well the captions that a captioner wrote agree with the labels. Nothing reads it but people.
rule score_captions:
    input:
        code("stages.logits"),
        teacher=rules.make_teacher.output[: len(TEACHER)],
        tar=listed("data/shard/{shard}.tar"),
        captions="data/caption/{captioner}/{shard}.parquet",
        text=rules.embed_taxa.output,
        taxa="data/index/taxa.parquet",
    output:
        "data/logits/captions/{captioner}/{shard}.parquet",
    log:
        "logs/logits/captions-{captioner}-{shard}.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        section=view_section(),
    shell:
        "python -m bioclip_lite logits captions/{wildcards.captioner}/{wildcards.shard} --section {params.section:q} "
        "> {log} 2>&1"


rule record_logits:
    input:
        expand("data/logits/{shard}.safetensors", shard=CACHED),
        rules.embed_taxa.output,
        expand("data/logits/captions/{captioner}/{shard}.parquet", captioner=CAPTIONERS, shard=shards(*SPLITS)),
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
