"""VLA-Adapter, base and pro (configuration, modeling, processor, converter)."""
