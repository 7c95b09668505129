"""What ships: the TensorFlow.js model and its bundle, a text encoder beside it, ONNX, and what makes and runs them."""
