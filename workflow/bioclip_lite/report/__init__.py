"""Present an evaluation: page, model card, figures and DVC plots, all from the numbers of metrics.json."""
