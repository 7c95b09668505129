"""Parameters: reading and checking params.yaml, and the part of a section that each job reads."""

from bioclip_lite.params.checks import check, load
from bioclip_lite.params.ingredients import check_sources, warnings
from bioclip_lite.params.jobs import of_job, species_lists

__all__ = ["check", "check_sources", "load", "of_job", "species_lists", "warnings"]
