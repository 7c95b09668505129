# What each shard shall hold. A checkpoint: once it is known, jobs of shards whose manifest is as it was drop out,
# whatever happened to the rest of the collection. Its one output is a folder: Snakemake goes through the outputs of a
# checkpoint once for every job that waits for it.
checkpoint list_shards:
    input:
        code("shard"),
        index="data/index/samples.parquet",
    output:
        directory("data/shard/manifest"),
    log:
        "logs/shard/manifests.log",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        section=section("shard", "manifests"),
    shell:
        "python -m bioclip_lite shard manifests --section {params.section:q} > {log} 2>&1"


# The photographs themselves are no input: their contents are in the manifest, which the job checks them against.
rule write_shard:
    input:
        code("shard"),
        manifest=listed("data/shard/manifest/{shard}.parquet"),
    output:
        "data/shard/{shard}.tar",
        "data/shard/{shard}.safetensors",
    log:
        "logs/shard/{shard}.log",
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        section=lambda wildcards: section("shard", wildcards.shard),
    shell:
        "python -m bioclip_lite shard {wildcards.shard} --section {params.section:q} > {log} 2>&1"


rule write_sizes:
    input:
        code("shard"),
        manifests="data/shard/manifest",
        tars=expand("data/shard/{shard}.tar", shard=shards(*SPLITS)),
    output:
        "data/shard/sizes.json",
    log:
        "logs/shard/sizes.log",
    localrule: True
    params:
        section=section("shard", "sizes"),
    shell:
        "python -m bioclip_lite shard sizes --section {params.section:q} > {log} 2>&1"


rule record_shard:
    input:
        "data/shard/manifest",
        rules.write_sizes.input.tars,
        expand("data/shard/{shard}.safetensors", shard=shards(*SPLITS)),
        rules.write_sizes.output,
    output:
        ledger_path("shard"),
    log:
        "logs/shard/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger shard > {log} 2>&1"


rule shard:
    input:
        ledgers("shard"),
