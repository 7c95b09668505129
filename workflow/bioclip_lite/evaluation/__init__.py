"""What each variant of the model answers to the same photographs, and at what cost."""
