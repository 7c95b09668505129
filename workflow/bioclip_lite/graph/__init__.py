"""A student as a small graph of plain operations: what is quantised, measured and shipped.

``fold`` traces a re-parameterised timm model and merges everything that is linear into its neighbours, in float64:
batch normalisation, layer scale, the scale and shift of normalisations, attention's 1/sqrt(d), GELU's factors. What
remains is a list of nodes as JSON and their weights as NumPy arrays in PyTorch's layout. ``run`` executes it in
PyTorch; ``bioclip_lite.web.tfjs`` builds the same nodes in TensorFlow. The normalisation of the pixels stays outside,
in preprocessing: convolutions pad the normalised image with zeros, so a mean cannot be folded exactly.

Nodes (tensors are (batch, channels, height, width) or (batch, channels); ``pads`` are top, bottom, left, right):

==============  ====================================================================================================
conv            weight (out, in, kh, kw), bias; strides, pads, dilations
depthwise       weight (in * multiplier, 1, kh, kw), bias; strides, pads, dilations
linear          weight (out, in), bias
activation      function: one of ACTIVATIONS
add, multiply   two inputs of equal shape, or the second (batch, channels, 1, 1)
shift           adds the array ``shift`` (channels, height, width): class token, position embedding
normalize       (x - mean) / sqrt(variance + eps) over the channels of each position
attention       input (batch, 3 * heads * d, height, width) holds queries, keys, values; queries are scaled already.
                With ``window`` each square of that side by itself. ``positions``, an array (heads, n, n) for n
                positions (query, key), is added before the softmax
multi_query     inputs queries (batch, heads * d, height, width), keys (batch, d, ...), values (batch, d', ...): all
                heads look at the same keys. Queries are scaled already
max_pool        kernel, strides, pads
average_pool    kernel, strides; a window over the edge averages what is inside
pad             pads, with zeros
crop            ``start`` (row, column) of the part that is kept; ``shape`` says its size
reshape         the same positions, row by row, in another height and width
mean            over height and width; keeps them as 1 x 1
flatten         (batch, channels, 1, 1) to (batch, channels)
==============  ====================================================================================================

The tokens of a transformer are an image of width 1: (batch, channels, tokens, 1). So its linear layers are 1 x 1
convolutions, which TensorFlow.js fuses with bias and activation.
"""

from bioclip_lite.graph.execution import ACTIVATIONS, Graph, Node, Weights, execute, macs, run
from bioclip_lite.graph.folding import fold
from bioclip_lite.graph.translation import SUPPORTED

__all__ = ["ACTIVATIONS", "SUPPORTED", "Graph", "Node", "Weights", "execute", "fold", "macs", "run"]
