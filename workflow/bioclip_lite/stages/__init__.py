"""One module per stage, each with ``run(params, data, job=None)``. Stages meet in files, never in imports."""
