"""The embeddings of the teachers, stored for every view, taxon and text."""
