"""Snakemake and DVC from inside: what each records of a job, what a remote holds, and what need not be made again."""
