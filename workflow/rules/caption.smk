CAPTIONERS = {captioner["name"]: captioner for captioner in config["caption"]["captioners"]}
FINE_TUNED = [name for name, captioner in CAPTIONERS.items() if captioner.get("fine_tuning")]
LIT_COLUMNS = ["data/caption/lit_columns.json"] if config["caption"]["lit_columns"] == "auto" else []


if LIT_COLUMNS:

    rule choose_columns:
        input:
            code("caption"),
            taxa="data/index/taxa.parquet",
        output:
            LIT_COLUMNS,
        log:
            "logs/caption/columns.log",
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            section=section("caption", "columns"),
        shell:
            "python -m bioclip_lite caption columns --section {params.section:q} > {log} 2>&1"


rule write_captions:
    input:
        code("caption"),
        tar=listed("data/shard/{shard}.tar"),
        columns=LIT_COLUMNS,
    output:
        "data/caption/{shard}.parquet",
    log:
        "logs/caption/{shard}.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        section=lambda wildcards: section("caption", wildcards.shard),
    shell:
        "python -m bioclip_lite caption {wildcards.shard} --section {params.section:q} > {log} 2>&1"


rule fine_tune_captioner:
    input:
        code("caption", "fine_tuning"),
        model=captioner_weights,
        captions=lambda wildcards: caption_set(wildcards.captioner, "captions"),
        photographs=lambda wildcards: caption_set(wildcards.captioner, "images"),
    output:
        expand("data/caption/{{captioner}}/model/{file}", file=[*CAPTIONER, "rejects.parquet"]),
    log:
        "logs/caption/{captioner}/model.log",
    wildcard_constraints:
        captioner="|".join(FINE_TUNED) or "none",
    threads: 8
    resources:
        mem_mb=16000,
        runtime=1440,
        gpu=0,
    params:
        section=lambda wildcards: section("caption", f"{wildcards.captioner}/model"),
    shell:
        "python -m bioclip_lite caption {wildcards.captioner}/model --section {params.section:q} > {log} 2>&1"


# A rule of its own, so that text types ask for no GPU.
rule write_synthetic:
    input:
        code("caption", "captioner"),
        tar=listed("data/shard/{shard}.tar"),
        model=captioner_files,
    output:
        "data/caption/{captioner}/{shard}.parquet",
    log:
        "logs/caption/{captioner}/{shard}.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=720,
        gpu=0,
    params:
        section=lambda wildcards: section("caption", f"{wildcards.captioner}/{wildcards.shard}"),
    shell:
        "python -m bioclip_lite caption {wildcards.captioner}/{wildcards.shard} --section {params.section:q} "
        "> {log} 2>&1"


rule record_caption:
    input:
        LIT_COLUMNS,
        expand("data/caption/{shard}.parquet", shard=shards(*LABELLED)),
        expand(rules.fine_tune_captioner.output, captioner=FINE_TUNED),
        described(CAPTIONERS, *LABELLED),
    output:
        ledger_path("caption"),
    log:
        "logs/caption/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger caption > {log} 2>&1"


rule caption:
    input:
        ledgers("caption"),
