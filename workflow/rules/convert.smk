READER = config["convert"]["text_encoder"]
TEXT_ENCODER = ["data/convert/text"] if READER else []
PHONE = ["data/convert/tflite", "data/convert/tflite_report.json"] if config["convert"]["tflite"] else []
SPECIES_LISTS = parameters.species_lists(config["convert"])
OCCURRENCES = config["convert"]["prior"]
PRIOR = ["data/convert/prior/tfjs", "data/convert/prior/report.json"] if OCCURRENCES else []


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
        "data/convert/calibration.safetensors",
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


if PHONE:

    rule convert_tflite:
        input:
            code("convert", "tflite"),
            expand("data/shard/{shard}.tar", shard=shards("test")),
            model=expand("data/quantize/model/{file}", file=GRAPH),
            bundle="data/convert/tfjs",
            sizes="data/shard/sizes.json",
            lock=CONVERT_LOCK,
            environment=ancient(CONVERT_ENV),
        output:
            directory("data/convert/tflite"),
            "data/convert/tflite_report.json",
        log:
            "logs/convert/tflite.log",
        threads: 8
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            section=section("convert", "tflite"),
        shell:
            "python -m bioclip_lite convert tflite --section {params.section:q} > {log} 2>&1"


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


rule relist:
    input:
        code("convert", "list"),
        species_list=lambda wildcards: f"data/lists/{SPECIES_LISTS[wildcards.list]}",
        bundle="data/convert/tfjs",
        calibration="data/convert/calibration.safetensors",
        taxa="data/index/taxa.parquet",
        teacher=expand("data/teacher/model/{file}", file=TEACHER),
    output:
        directory("data/convert/lists/{list}/tfjs"),
        "data/convert/lists/{list}/report.json",
    log:
        "logs/convert/lists/{list}.log",
    threads: 8
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        section=lambda wildcards: section("convert", f"lists/{wildcards.list}"),
    shell:
        "python -m bioclip_lite convert lists/{wildcards.list} --section {params.section:q} > {log} 2>&1"


if OCCURRENCES:

    rule make_prior:
        input:
            code("convert", "prior"),
            occurrences=f"data/lists/{OCCURRENCES}",
            bundle="data/convert/tfjs",
            calibration="data/convert/calibration.safetensors",
        output:
            directory("data/convert/prior/tfjs"),
            "data/convert/prior/report.json",
        log:
            "logs/convert/prior.log",
        resources:
            mem_mb=4000,
            runtime=120,
        params:
            section=section("convert", "prior"),
        shell:
            "python -m bioclip_lite convert prior --section {params.section:q} > {log} 2>&1"


rule record_convert:
    input:
        rules.convert_student.output,
        PHONE,
        TEXT_ENCODER,
        expand("data/convert/lists/{list}/{made}", list=SPECIES_LISTS, made=["tfjs", "report.json"]),
        PRIOR,
    output:
        ledger_path("convert"),
    log:
        "logs/convert/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger convert > {log} 2>&1"


rule convert:
    input:
        ledgers("convert"),
