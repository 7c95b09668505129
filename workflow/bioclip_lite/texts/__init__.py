"""Captions of taxa and photographs."""
