"""Photographs: open, shard, augment, load and preprocess them; their licences."""
