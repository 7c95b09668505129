"""Translate fx's operations on tensors, in any order of axes, to nodes on (channels, height, width).

``translate.translate`` walks the trace. ``modules.MODULES`` and ``calls.CALLS`` name the handler of each module class
and of each function or method; a handler adds nodes to the ``Builder`` and returns the value, or None where the graph
has nothing for this use.
"""
