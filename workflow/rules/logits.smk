CACHED = shards("train", "val", "calibration", "test", "unlabelled")
CACHES = [cache_of(teacher) for teacher in TEACHERS]
TUNED = config["logits"]["logit_scale"] == "tuned"
TEXTS = ["data/logits/{cache}texts.safetensors"] if config["distill"]["text_tower"] else []
SYNTHETIC = expand(
    "data/logits/texts/{captioner}/{shard}.safetensors",
    captioner=synthetic(config["distill"]["text_tower"])[0],
    shard=shards("train"),
)


wildcard_constraints:
    cache="([a-z][a-z0-9_]*/)?",


rule embed_taxa:
    input:
        code("logits"),
        teacher=teacher_files,
        taxa="data/index/taxa.parquet",
        captions=["data/caption/val-00000.parquet"] if config["logits"]["prompt"] == "lit" else [],
        # a scale is tuned by the labels of split val
        sizes=["data/shard/sizes.json"] if TUNED else [],
        tars=expand("data/shard/{shard}.tar", shard=shards("val")) if TUNED else [],
        caches=expand("data/logits/{{cache}}{shard}.safetensors", shard=shards("val")) if TUNED else [],
    output:
        "data/logits/{cache}taxa.safetensors",
        [f"data/logits/{{cache}}scale.{ending}" for ending in ("json", "png")] if TUNED else [],
    log:
        "logs/logits/{cache}taxa.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        section=lambda wildcards: section("logits", f"{wildcards.cache}taxa"),
    shell:
        "python -m bioclip_lite logits {wildcards.cache}taxa --section {params.section:q} > {log} 2>&1"


rule embed_shard:
    input:
        code("logits"),
        teacher=teacher_files,
        tar=listed("data/shard/{shard}.tar"),
    output:
        "data/logits/{cache}{shard}.safetensors",
    log:
        "logs/logits/{cache}{shard}.log",
    threads: cores_of_a_gpu
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        section=lambda wildcards: section("logits", wildcards.shard),
    shell:
        "python -m bioclip_lite logits {wildcards.cache}{wildcards.shard} --section {params.section:q} > {log} 2>&1"


if TEXTS:

    # Every taxon in every text type, for students that read as well.
    rule embed_texts:
        input:
            code("logits"),
            teacher=teacher_files,
            taxa="data/index/taxa.parquet",
            captions="data/caption/val-00000.parquet",
        output:
            TEXTS,
        log:
            "logs/logits/{cache}texts.log",
        resources:
            mem_mb=4000,
            runtime=60,
            gpu=0,
        params:
            section=section("logits", "texts"),
        shell:
            "python -m bioclip_lite logits {wildcards.cache}texts --section {params.section:q} > {log} 2>&1"


# What the captioners that a text tower learns from say of the photographs that it learns from.
rule embed_captions:
    input:
        code("logits"),
        teacher=expand("data/teacher/model/{file}", file=TEACHER),
        captions="data/caption/{captioner}/{shard}.parquet",
    output:
        "data/logits/texts/{captioner}/{shard}.safetensors",
    log:
        "logs/logits/texts/{captioner}/{shard}.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        section=lambda wildcards: section("logits", f"texts/{wildcards.captioner}/{wildcards.shard}"),
    shell:
        "python -m bioclip_lite logits texts/{wildcards.captioner}/{wildcards.shard} --section {params.section:q} "
        "> {log} 2>&1"


# How well the captions that a captioner wrote agree with the labels. Nothing reads it but people.
rule score_captions:
    input:
        code("logits"),
        teacher=expand("data/teacher/model/{file}", file=TEACHER),
        tar=listed("data/shard/{shard}.tar"),
        captions="data/caption/{captioner}/{shard}.parquet",
        text="data/logits/taxa.safetensors",
        taxa="data/index/taxa.parquet",
    output:
        "data/logits/captions/{captioner}/{shard}.parquet",
    log:
        "logs/logits/captions/{captioner}/{shard}.log",
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        section=lambda wildcards: section("logits", f"captions/{wildcards.captioner}/{wildcards.shard}"),
    shell:
        "python -m bioclip_lite logits captions/{wildcards.captioner}/{wildcards.shard} --section {params.section:q} "
        "> {log} 2>&1"


rule record_logits:
    input:
        expand(rules.embed_shard.output, cache=CACHES, shard=CACHED),
        expand(rules.embed_taxa.output, cache=CACHES),
        expand(TEXTS, cache=CACHES),
        SYNTHETIC,
        expand("data/logits/captions/{captioner}/{shard}.parquet", captioner=CAPTIONERS, shard=shards(*LABELLED)),
    output:
        ledger_path("logits"),
    log:
        "logs/logits/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger logits > {log} 2>&1"


rule logits:
    input:
        ledgers("logits"),
