"""Smaller models: channels cut out to a budget, and weights on the grid that ships."""
