"""edgearte: teach a small language model from a big one, and deliver the small one to the device it is for."""

__version__ = "0.1.0"
