"""Sources of photographs: one module per form of data; ``registry`` names them."""
