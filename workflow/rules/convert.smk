rule convert_student:
    input:
        code("stages.convert", "tfjs"),
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
        "logs/convert/convert.log",
    threads: 8
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        section=section("convert"),
    shell:
        "python -m bioclip_lite convert --section {params.section:q} > {log} 2>&1"


rule record_convert:
    input:
        rules.convert_student.output,
    output:
        provenance.ledger("convert"),
    log:
        "logs/convert/ledger.log",
    localrule: True
    shell:
        "python -m bioclip_lite.provenance convert {input} > {log} 2>&1"


rule convert:
    input:
        ledgers("convert"),
