"""QuantUI: see what quantization does to a model, decide layer by layer, write the checkpoint you deploy."""

__version__ = "0.1.0"
