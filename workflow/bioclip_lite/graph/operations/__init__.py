"""Every operation of the graph, each in one place: its attributes, its runtimes, its cost, its channels.

``table.OPERATIONS`` lists them. The converter's environment, which lacks PyTorch, imports these modules too, so they
import runtimes inside functions. Tensors are (batch, channels, height, width) or (batch, channels); in TensorFlow the
channels come last. ``pads`` are top, bottom, left, right. The tokens of a transformer are an image of width 1,
(batch, channels, tokens, 1), so its linear layers are 1 x 1 convolutions, which TensorFlow.js fuses with bias and
activation.
"""
