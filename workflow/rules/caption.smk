rule write_captions:
    input:
        code("stages.caption"),
        tar=listed("data/shard/{shard}.tar"),
    output:
        "data/caption/{shard}.parquet",
    log:
        "logs/caption/{shard}.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        section=section("caption"),
    shell:
        "python -m bioclip_lite caption {wildcards.shard} --section {params.section:q} > {log} 2>&1"


rule record_caption:
    input:
        expand("data/caption/{shard}.parquet", shard=shards(*SPLITS)),
    output:
        provenance.ledger("caption"),
    log:
        "logs/caption/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance caption {input} > {log} 2>&1"


rule caption:
    input:
        ledgers("caption"),
