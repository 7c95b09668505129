"""The stages of the pipeline."""

# In the order in which they run. A stage has one name as rule, module, section of params.yaml, folder of data and test.
STAGES = (
    "index",
    "shard",
    "caption",
    "teacher",
    "logits",
    "distill",
    "prune",
    "quantize",
    "convert",
    "evaluate",
)
