"""All operations by name."""

from bioclip_lite.graph.nodes import Node
from bioclip_lite.graph.operations import (
    activations,
    arithmetic,
    attention,
    layers,
    linear_attention,
    pooling,
    shaping,
    windows,
)
from bioclip_lite.graph.operations.operation import Operation

OPERATIONS: dict[str, Operation] = {
    **layers.OPERATIONS,
    **activations.OPERATIONS,
    **arithmetic.OPERATIONS,
    **attention.OPERATIONS,
    **linear_attention.OPERATIONS,
    **pooling.OPERATIONS,
    **shaping.OPERATIONS,
    **windows.OPERATIONS,
}


def operation_of(node: Node) -> Operation:
    """The table's entry for a node; ValueError if there is none."""
    if node["op"] not in OPERATIONS:
        raise ValueError(f"graph node {node['name']} has unknown operation {node['op']}")
    return OPERATIONS[node["op"]]
