"""What a person reads of an evaluation, from the same numbers: page, model card, figures, and what DVC plots."""
