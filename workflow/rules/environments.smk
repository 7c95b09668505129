# What `make setup` makes besides .venv. Jobs take these as ancient(): an environment that is remade, or missing on a
# machine that only needs the results, makes nothing run again; a changed lock file does: its hash names the mark.
CONVERT_LOCK = "workflow/envs/convert.txt"
CONVERT_ENV = ready(".venv-convert", CONVERT_LOCK)
NODE_LOCK = "packages/react-bio-clip/package-lock.json"
NODE_ENV = ready("packages/react-bio-clip/node_modules", NODE_LOCK)


rule convert_env:
    input:
        ancient(CONVERT_LOCK),
    output:
        CONVERT_ENV,
    log:
        "logs/environments/convert.log",
    localrule: True
    shell:
        "(rm -rf .venv-convert && python -m venv .venv-convert "
        "&& .venv-convert/bin/python -m pip install --quiet -r {input} && touch {output}) > {log} 2>&1"


rule node_env:
    input:
        ancient(NODE_LOCK),
    output:
        NODE_ENV,
    log:
        "logs/environments/node.log",
    localrule: True
    shell:
        "(cd packages/react-bio-clip && npm ci --no-audit --no-fund && touch ../../{output}) > {log} 2>&1"
