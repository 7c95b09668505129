"""Describe photographs with a CoCa, and train one."""
