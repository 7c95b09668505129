"""Taxonomies that the user names: ranks, accepted names and common names for the names of a source and of a list."""
