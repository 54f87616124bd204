"""Storage of quantized linear layers: the checkpoint formats, and the products over them."""
