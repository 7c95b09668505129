"""A search over parameters: its space, its trials in a shared file, and what they found."""
