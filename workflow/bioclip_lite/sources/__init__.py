"""Where photographs come from: one module per form of data, found by name in ``registry``."""
