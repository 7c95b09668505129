"""bioclip-lite: from biology CLIP models to browsers and phones."""

__version__ = "0.1.0"
