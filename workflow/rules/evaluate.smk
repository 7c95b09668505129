# What each variant is made of, besides photographs and taxa.
# Texts that find photographs, which the teacher reads.
RETRIEVAL = config["evaluate"]["retrieval"]
READ = [
    *expand("data/caption/{shard}.parquet", shard=shards("test") if RETRIEVAL else []),
    *described([name for name in RETRIEVAL if name in CAPTIONERS], "test"),
]
SHIPPED = ["data/convert/tfjs", *expand("data/quantize/model/{file}", file=GRAPH), *NODE_CODE, NODE_LOCK]
MADE_OF = {
    "teacher": [],
    "table": ["data/convert/tfjs"],
    "first": expand("data/distill/first/{file}", file=STUDENT),
    "student": DISTILLED,
    "pruned": expand("data/prune/model/{file}", file=STUDENT),
    "int8": expand("data/quantize/model/{file}", file=GRAPH),
    "tfjs": SHIPPED,
    "chromium": [*SHIPPED, *BROWSER_CODE],
    "tflite": ["data/convert/tflite", *expand("data/quantize/model/{file}", file=GRAPH), CONVERT_LOCK],
    "control": expand("data/distill/control/{file}", file=STUDENT),
    "majority": [],
    "random": [],
}
# Variants that answer from caches -> the teachers whose caches these are; the others look at the photographs.
CACHED_BY = {"teacher": [FIRST], "table": [FIRST]}
for variant in config["evaluate"]["also"]:
    if name := further_teacher(variant):
        MADE_OF[variant], CACHED_BY[variant] = [f"data/logits/{name}/taxa.safetensors"], [name]
    elif variant == "ensemble":
        CACHED_BY[variant] = members(config["evaluate"]["also"])
        MADE_OF[variant] = expand("data/logits/{cache}taxa.safetensors", cache=map(cache_of, CACHED_BY[variant]))
RUN_IN = {"tfjs": NODE_ENV, "chromium": NODE_ENV, "tflite": CONVERT_ENV}  # variants that other runtimes answer for
SUITES = {suite["name"]: suite for suite in config["evaluate"]["suites"]}
VARIANTS = variants(parameters.of_job(config, "evaluate", None))
SPEED = ["data/evaluate/predictions/speed.json"] if config["evaluate"]["speed"]["sizes"] else []
TESTED = shards("test")
# A variant whose test photographs are one shard answers them where it is calibrated, with the model that is loaded there.
ANSWERED = "data/evaluate/predictions/{variant}/{shard}.safetensors"
AT_ONCE = TESTED if len(TESTED) == 1 else []
PREDICTIONS = [
    *expand("data/evaluate/predictions/{variant}.{file}", variant=VARIANTS, file=["safetensors", "json"]),
    *expand(ANSWERED, variant=VARIANTS, shard=TESTED),
]


# Costs, temperature and thresholds of a variant; its answers too, where split test is one shard.
rule predict:
    input:
        code("evaluate"),
        lambda wildcards: seen(wildcards.variant, [*shards("calibration"), *AT_ONCE]),
        lambda wildcards: read_by(wildcards.variant),
        lambda wildcards: ancient(RUN_IN[wildcards.variant]) if wildcards.variant in RUN_IN else [],
        model=lambda wildcards: MADE_OF[wildcards.variant],
        text="data/logits/taxa.safetensors",
        taxa="data/index/taxa.parquet",
        sizes="data/shard/sizes.json",
    output:
        "data/evaluate/predictions/{variant}.safetensors",
        "data/evaluate/predictions/{variant}.json",
        [ANSWERED.replace("{shard}", shard) for shard in AT_ONCE],
    log:
        "logs/evaluate/{variant}.log",
    wildcard_constraints:
        variant="|".join(VARIANTS),
    # Latency is measured here, with one thread, which needs a core that no other job uses.
    threads: half_of_the_cores
    resources:
        mem_mb=4000,
        runtime=lambda wildcards: 600 if wildcards.variant == "teacher" else 120,  # it may read many texts
        gpu=0,
    params:
        section=lambda wildcards: section("evaluate", wildcards.variant),
    shell:
        "python -m bioclip_lite evaluate {wildcards.variant} --section {params.section:q} > {log} 2>&1"


if not AT_ONCE:

    # The answers of a variant to one shard, at the temperature that was fitted.
    rule predict_shard:
        input:
            code("evaluate"),
            lambda wildcards: seen(wildcards.variant, [wildcards.shard]),
            lambda wildcards: ancient(RUN_IN[wildcards.variant]) if wildcards.variant in RUN_IN else [],
            model=lambda wildcards: MADE_OF[wildcards.variant],
            calibration="data/evaluate/predictions/{variant}.json",
            text="data/logits/taxa.safetensors",
            taxa="data/index/taxa.parquet",
        output:
            ANSWERED,
        log:
            "logs/evaluate/{variant}/{shard}.log",
        wildcard_constraints:
            variant="|".join(VARIANTS),
            shard="|".join(TESTED),
        threads: half_of_the_cores
        resources:
            mem_mb=4000,
            runtime=120,
            gpu=0,
        params:
            section=lambda wildcards: section("evaluate", f"{wildcards.variant}/{wildcards.shard}"),
        shell:
            "python -m bioclip_lite evaluate {wildcards.variant}/{wildcards.shard} --section {params.section:q} "
            "> {log} 2>&1"


rule evaluate_suite:
    input:
        code("evaluate", "suite"),
        ancient(NODE_ENV),
        expand("data/teacher/model/{file}", file=TEACHER),
        *(MADE_OF[variant] for variant in ("student", "pruned", "int8", "tfjs")),
        lambda wildcards: "data/caption/val-00000.parquet" if SUITES[wildcards.suite]["prompt"] == "lit" else [],
        photographs=lambda wildcards: SUITES[wildcards.suite]["path"],
        text="data/logits/taxa.safetensors",
    output:
        "data/evaluate/predictions/suites/{suite}.json",
    log:
        "logs/evaluate/suites/{suite}.log",
    threads: 8
    resources:
        mem_mb=4000,
        runtime=600,
    params:
        section=lambda wildcards: section("evaluate", f"suites/{wildcards.suite}"),
    shell:
        "python -m bioclip_lite evaluate suites/{wildcards.suite} --section {params.section:q} > {log} 2>&1"


rule time_sizes:
    input:
        code("evaluate"),
        SHIPPED,
        BROWSER_CODE if config["evaluate"]["chromium"] else [],
        expand("data/shard/{shard}.tar", shard=shards("test")),
        model=expand("data/prune/model/{file}", file=STUDENT),
        sizes="data/shard/sizes.json",
        lock=CONVERT_LOCK,
        environments=ancient([CONVERT_ENV, NODE_ENV]),
    output:
        "data/evaluate/predictions/speed.json",
    log:
        "logs/evaluate/speed.log",
    threads: 8  # as in rule predict
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        section=section("evaluate", "speed"),
    shell:
        "python -m bioclip_lite evaluate speed --section {params.section:q} > {log} 2>&1"


rule write_report:
    input:
        code("evaluate", "report"),
        SPEED,
        PREDICTIONS,
        expand("data/evaluate/predictions/suites/{suite}.json", suite=SUITES),
        expand("data/shard/{shard}.tar", shard=shards("test")),
        samples="data/index/samples.parquet",
        taxa="data/index/taxa.parquet",
        sizes="data/shard/sizes.json",
        history="data/distill/history.parquet",
    output:
        "data/evaluate/metrics.json",
        "data/evaluate/headline.json",
        report(
            "data/evaluate/report.html",
            caption="../report/evaluation.rst",
            category="Evaluation",
            labels={"what": "report"},
        ),
        report(
            "data/evaluate/MODEL_CARD.md",
            caption="../report/card.rst",
            category="Evaluation",
            labels={"what": "model card"},
        ),
        report(
            directory("data/evaluate/plots"),
            patterns=["{figure}.png"],
            caption="../report/figure.rst",
            category="Evaluation",
            labels={"what": "{figure}"},
        ),
    log:
        "logs/evaluate/report.log",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        section=section("evaluate", "report"),
    shell:
        "python -m bioclip_lite evaluate report --section {params.section:q} > {log} 2>&1"


rule record_evaluate:
    input:
        rules.write_report.output,
        SPEED,
        PREDICTIONS,
        expand("data/evaluate/predictions/suites/{suite}.json", suite=SUITES),
    output:
        ledger_path("evaluate"),
    log:
        "logs/evaluate/ledger.log",
    localrule: True
    shell:
        "printf '%s\\n' {input:q} | python -m bioclip_lite.engines.ledger evaluate > {log} 2>&1"


rule evaluate:
    input:
        ledgers("evaluate"),
