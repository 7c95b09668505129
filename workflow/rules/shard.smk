rule write_shard:
    input:
        code("stages.shard"),
        index="data/index/samples.parquet",
        source=config["index"]["path"],
    output:
        "data/shard/{shard}.tar",
    log:
        "logs/shard/{shard}.log",
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        section=section("shard"),
    shell:
        "python -m bioclip_lite shard {wildcards.shard} --section {params.section:q} > {log} 2>&1"


rule write_sizes:
    input:
        code("stages.shard"),
        index="data/index/samples.parquet",
        tars=expand("data/shard/{shard}.tar", shard=shards(*SPLITS)),
    output:
        "data/shard/sizes.json",
    log:
        "logs/shard/sizes.log",
    localrule: True
    params:
        section=section("shard"),
    shell:
        "python -m bioclip_lite shard sizes --section {params.section:q} > {log} 2>&1"


rule shard:
    input:
        rules.write_sizes.input.tars,
        rules.write_sizes.output,
        upstream=ancient(upstream("shard")),
    output:
        provenance.ledger("shard"),
    log:
        "logs/shard/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance shard {input} > {log} 2>&1"
