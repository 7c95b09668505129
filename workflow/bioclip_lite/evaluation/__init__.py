"""Run every variant of the model on the same photographs, and measure its answers and its costs."""
