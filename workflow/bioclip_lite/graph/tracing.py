"""Trace a timm model as an fx graph of tensors.

fx follows the operations of ``forward`` with symbols in place of tensors. The symbols here know their shapes, so a
module may inspect sizes while it runs. What no operation of the graph computes, as attention by its single products,
is written anew in ``twins``.
"""

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from timm.layers import DropPath, LayerScale, LayerScale2d
from timm.models.fastvit import LayerScale2d as FastVitScale
from torch import fx, nn

from bioclip_lite.graph.twins import simplify
from bioclip_lite.utils.errors import first_line

LAYER_SCALES = (LayerScale, LayerScale2d, FastVitScale)
_KNOWN = ("shape", "ndim", "dtype", "device")  # of a tensor without content
_CONSTANT = "traced_output"  # name of a buffer


class Untraceable(Exception):
    """fx could not trace a model; the message names the module and the reason."""


def traced(model: nn.Module, size: int, leaves: tuple[type[nn.Module], ...]) -> fx.Graph:
    """Trace ``model`` (float64, eval; changed in place) on one image; in its ``meta`` each node has its "shape",
    or the "shapes" of several tensors.

    ``leaves`` are module classes that count as one operation. Raises Untraceable.
    """
    for module in model.modules():
        simplify(module)
    shapes_only = copy.deepcopy(model).to("meta")
    tracer = _Tracer(leaves, model, torch.zeros(1, 3, size, size, dtype=torch.float64, device="meta"))
    try:
        with torch.no_grad():
            graph_module = fx.GraphModule(shapes_only, tracer.trace(shapes_only))
    except Exception as error:  # timm's forward may raise anything when its arguments are symbols
        where = tracer.failed_in or type(model).__name__
        raise Untraceable(
            f"{where} cannot be followed on an image of {size} pixels, of which only the size is known while it is "
            f"traced ({first_line(error)})"
        ) from error
    graph_module.graph.eliminate_dead_code()
    return graph_module.graph


class _Symbol(fx.Proxy):
    """A tensor, or several, of which all but the content is known."""

    tracer: "_Tracer"

    def __getattr__(self, k: str) -> Any:
        return getattr(self.tracer.values[self.node], k) if k in _KNOWN else super().__getattr__(k)

    def __len__(self) -> int:
        return len(self.tracer.values[self.node])

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(cast(Any, self), i) for i in range(len(self)))


class _Tracer(fx.Tracer):
    """Follow symbols of known shapes, so that sizes are plain numbers and a module may choose by them.

    Computes every operation beside its symbol on the device "meta", which has shapes and no content. A module that is
    called without a symbol depends on its parameters alone: it is computed with those of ``model``, and its output is a
    buffer from then on. Does not trace into leaves, and records the module in which tracing failed.
    """

    proxy_buffer_attributes = True

    def __init__(self, leaves: tuple[type[nn.Module], ...], model: nn.Module, image: torch.Tensor) -> None:
        super().__init__()
        self.leaves = (*leaves, *LAYER_SCALES, DropPath)
        self.model, self.image = model, image
        self.values: dict[fx.Node, Any] = {}
        self.computes = False  # rather than records
        self.failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """A symbol, or the value itself where it holds no tensor."""
        symbol = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        inputs, named = fx.node.map_aggregate((args, kwargs), self._value_of)
        value = self._computed(kind, target, inputs, named)
        self.values[symbol.node] = value
        if isinstance(value, torch.Tensor):
            symbol.node.meta["shape"] = list(value.shape)
            return symbol
        if (
            not isinstance(value, list | tuple)
            or not all(isinstance(part, torch.Tensor) for part in value)
            or not value
        ):
            return value
        symbol.node.meta["shapes"] = [list(part.shape) for part in value]
        return symbol

    def _value_of(self, argument: Any) -> Any:
        return self.values[argument.node] if isinstance(argument, fx.Proxy) else argument

    def _computed(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":  # a further argument of forward has its default
            return self.image if len(self.values) == 0 else (args or (None,))[0]
        self.computes = True
        try:
            if kind == "get_attr":
                return operator.attrgetter(target)(self.root)
            if kind == "call_module":
                return self.root.get_submodule(target)(*args, **kwargs)
            return getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)
        finally:
            self.computes = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.computes else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.computes:
            return forward(*args, **kwargs)
        symbols: list[Any] = []
        fx.node.map_aggregate((args, kwargs), lambda a: symbols.append(a) if isinstance(a, fx.Proxy) else None)
        try:
            return super().call_module(m, forward, args, kwargs) if symbols else self._constant(m, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or f"{self.path_of_module(m)} ({type(m).__name__})"
            raise

    def _constant(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The output of a module as a buffer of ``model``."""
        path = self.path_of_module(module)
        exact = self.model.get_submodule(path)
        self.computes = True
        try:
            output = exact(*args, **kwargs)
        finally:
            self.computes = False
        exact.register_buffer(_CONSTANT, output)
        module.register_buffer(_CONSTANT, output.to("meta"))
        return self.create_proxy("get_attr", f"{path}.{_CONSTANT}", (), {})
