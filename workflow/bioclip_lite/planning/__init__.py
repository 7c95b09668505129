"""Plan a first run of the pipeline: look at photographs and machine, measure, choose."""
