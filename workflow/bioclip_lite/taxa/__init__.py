"""Scientific names, and the tree of taxa as arrays."""
