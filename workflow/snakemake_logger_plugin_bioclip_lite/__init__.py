"""The logger named ``bioclip-lite`` of Snakemake, which finds plugins as top-level packages of this prefix."""

from bioclip_lite.engines.terminal import LogHandler as LogHandler
