"""EF-VLA: early fusion of a frozen dual encoder (configuration, modeling, processor, converter)."""
