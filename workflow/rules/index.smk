# The photographs are read by a job for each of these parts of the source; none: by the job that writes the tables.
PARTS = [*map(job_names.part_name, range(config["index"]["parts"]))] if config["index"]["parts"] > 1 else []
DOWNLOADED = PARTS if hasattr(find_source(config["index"]["source"]), "prepare") else []
READ_PARTS = [
    *expand("data/index/manifest/{part}.parquet", part=PARTS),
    *expand("data/index/downloads/{part}.json", part=DOWNLOADED),
    *expand("data/index/read/{part}.parquet", part=PARTS),
]

if PARTS:

    rule list_parts:
        input:
            code("index", "manifest"),
            source=config["index"]["path"],
            lists=in_lists("species_list", "synonyms", "taxonomy"),
        output:
            expand("data/index/manifest/{part}.parquet", part=PARTS),
        log:
            "logs/index/manifest.log",
        resources:
            mem_mb=4000,
            runtime=240,
        params:
            section=section("index", "manifest"),
        shell:
            "python -m bioclip_lite index manifest --section {params.section:q} > {log} 2>&1"

    # One part after the other: a host is to be asked by one job at a time, which keeps to the limits of
    # index.downloads. On a cluster, where nodes may not reach the web, on the computer that runs Snakemake.
    rule download_part:
        input:
            code("index"),
            lambda wildcards: ancient(downloaded_before(wildcards.part)),
            manifest="data/index/manifest/{part}.parquet",
        output:
            "data/index/downloads/{part}.json",
        log:
            "logs/index/downloads/{part}.log",
        localrule: True
        params:
            section=lambda wildcards: section("index", f"downloads/{wildcards.part}"),
        shell:
            "python -m bioclip_lite index downloads/{wildcards.part} --section {params.section:q} > {log} 2>&1"

    rule read_part:
        input:
            code("index"),
            "data/index/downloads/{part}.json" if DOWNLOADED else [],
            source=config["index"]["path"],
            manifest="data/index/manifest/{part}.parquet",
        output:
            "data/index/read/{part}.parquet",
        log:
            "logs/index/read/{part}.log",
        threads: half_of_the_cores if DOWNLOADED else 8  # beside it, the next part is downloaded
        resources:
            mem_mb=4000,
            runtime=600,
        params:
            section=lambda wildcards: section("index", f"read/{wildcards.part}"),
        shell:
            "python -m bioclip_lite index read/{wildcards.part} --section {params.section:q} > {log} 2>&1"


rule make_index:
    input:
        code("index", "tables"),
        READ_PARTS,
        source=config["index"]["path"],
        lists=in_lists("species_list", "synonyms", "taxonomy", "teacher_saw"),
    output:
        "data/index/samples.parquet",
        "data/index/taxa.parquet",
        "data/index/rejects.parquet",
        "data/index/names.parquet",
        "data/index/ATTRIBUTION.csv",
        "data/index/contact_sheet.png",
        "data/index/report.html",
    log:
        "logs/index/tables.log",
    threads: 1 if PARTS else 8
    resources:
        mem_mb=4000,
        runtime=240 if PARTS else 120,
    params:
        section=section("index", "tables"),
    shell:
        "python -m bioclip_lite index tables --section {params.section:q} > {log} 2>&1"


rule record_index:
    input:
        READ_PARTS,
        rules.make_index.output,
    output:
        ledger_path("index"),
    log:
        "logs/index/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger index > {log} 2>&1"


rule index:
    input:
        ledgers("index"),
