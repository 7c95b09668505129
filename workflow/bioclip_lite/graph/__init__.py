"""A student as a small graph of plain operations: what is quantized, measured and shipped.

``folding.fold`` traces a re-parameterised timm model and merges everything that is linear into its neighbours, in
float64: batch normalisation, layer scale, the scale and shift of normalisations, attention's 1/sqrt(d), GELU's factors.
What remains is a list of nodes as JSON (``nodes``) and their weights as NumPy arrays in PyTorch's layout.
``operations.table`` defines each kind of node for every runtime. ``execution.run`` computes the graph in PyTorch;
``web.tfjs`` and ``web.onnx_export`` write it for other runtimes. The normalisation of the pixels stays outside, in
preprocessing: convolutions pad the normalised image with zeros, so a mean cannot be folded exactly.
"""
