"""What a first run of the pipeline should be: look at photographs and machine, measure, choose."""
