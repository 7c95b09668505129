READER = config["convert"]["text_encoder"]
TEXT_ENCODER = ["data/convert/text"] if READER else []


rule convert_student:
    input:
        code("convert", "bundle"),
        NODE_CODE,
        expand("data/shard/{shard}.tar", shard=shards("calibration", "test")),
        model=expand("data/quantize/model/{file}", file=GRAPH),
        text="data/logits/taxa.safetensors",
        taxa="data/index/taxa.parquet",
        attribution="data/index/ATTRIBUTION.csv",
        student="data/prune/model/student.json",
        teacher="data/teacher/model/teacher.json",
        sizes="data/shard/sizes.json",
        locks=[CONVERT_LOCK, NODE_LOCK],
        environments=ancient([CONVERT_ENV, NODE_ENV]),
    output:
        directory("data/convert/tfjs"),
        "data/convert/report.json",
        expand("data/convert/onnx/{kind}.onnx", kind=config["convert"]["onnx"]),
    log:
        "logs/convert/bundle.log",
    threads: 8
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        section=section("convert", "bundle"),
    shell:
        "python -m bioclip_lite convert bundle --section {params.section:q} > {log} 2>&1"


if READER:

    rule convert_text:
        input:
            code("convert", "text"),
            NODE_CODE,
            "packages/react-bio-clip/bin/text.mjs",
            TEXT_TOWER if READER == "student" else [],
            teacher=expand("data/teacher/model/{file}", file=TEACHER),
            taxa="data/index/taxa.parquet",
            locks=[CONVERT_LOCK, NODE_LOCK],
            environments=ancient([CONVERT_ENV, NODE_ENV]),
        output:
            directory("data/convert/text"),
        log:
            "logs/convert/text.log",
        threads: 8
        resources:
            mem_mb=8000,
            runtime=120,
        params:
            section=section("convert", "text"),
        shell:
            "python -m bioclip_lite convert text --section {params.section:q} > {log} 2>&1"


rule record_convert:
    input:
        rules.convert_student.output,
        TEXT_ENCODER,
    output:
        ledger_path("convert"),
    log:
        "logs/convert/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.engines.ledger convert {input} > {log} 2>&1"


rule convert:
    input:
        ledgers("convert"),
