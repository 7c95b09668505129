# What `make setup` makes besides .venv; workflow/envs/create.py writes the logs. Jobs take these as ancient(): an
# environment that is remade, or missing on a machine that only needs the results, makes nothing run again; a changed
# lock file does: its hash names the mark.
# The package of the web model is TypeScript, which jobs run compiled: what they read are the sources (NODE_CODE), and
# the compiled files are part of the environment, whose mark is named by the sources. bin/*.mjs refuse older ones.
CONVERT_LOCK = "workflow/envs/convert.txt"
CONVERT_ENV = ready(".venv-convert", CONVERT_LOCK)
NODE = "packages/react-bio-clip"
NODE_LOCK = f"{NODE}/package-lock.json"
NODE_PACKAGES = ready(f"{NODE}/node_modules", NODE_LOCK)
NODE_SOURCES = [
    "package-lock.json",
    "tsconfig.core.json",
    "tsconfig.json",
    *sorted(str(path.relative_to(NODE)) for path in Path(NODE, "src", "core").iterdir()),
]
NODE_ENV = sources_mark(NODE, NODE_SOURCES)
NODE_CODE = [
    *expand(f"{NODE}/bin/{{name}}.mjs", name=["built", "classify", "memory", "run", "weights"]),
    *expand(f"{NODE}/{{name}}", name=["src/core", "tsconfig.core.json", "tsconfig.json"]),
]
BROWSER_CODE = expand(f"{NODE}/bin/{{name}}.mjs", name=["browser", "chromium", "page"])


rule convert_env:
    input:
        ancient(CONVERT_LOCK),
    output:
        CONVERT_ENV,
    log:
        "logs/environments/convert.log",
    localrule: True
    shell:
        "python workflow/envs/create.py convert && touch {output}"


rule node_packages:
    input:
        ancient(NODE_LOCK),
    output:
        NODE_PACKAGES,
    log:
        "logs/environments/node_packages.log",
    localrule: True
    shell:
        "python workflow/envs/create.py node_packages && touch {output}"


rule node_env:
    input:
        ancient(NODE_PACKAGES),
        ancient(expand(f"{NODE}/{{file}}", file=NODE_SOURCES)),
    output:
        NODE_ENV,
    log:
        "logs/environments/node.log",
    localrule: True
    params:
        package=lambda wildcards, input: Path(input[0]).parents[1],
    shell:
        "(cd {params.package} && npm run build:core) > {log} 2>&1"
