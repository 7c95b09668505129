rule make_index:
    input:
        code("index"),
        source=config["index"]["path"],
        lists=[
            f"data/lists/{config['index'][name]}"
            for name in ("species_list", "synonyms", "taxonomy", "teacher_saw")
            if config["index"][name]
        ],
    output:
        "data/index/samples.parquet",
        "data/index/taxa.parquet",
        "data/index/rejects.parquet",
        "data/index/names.parquet",
        "data/index/ATTRIBUTION.csv",
        "data/index/contact_sheet.png",
        "data/index/report.html",
    log:
        "logs/index/index.log",
    threads: 8
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        section=section("index"),
    shell:
        "python -m bioclip_lite index --section {params.section:q} > {log} 2>&1"


rule record_index:
    input:
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
