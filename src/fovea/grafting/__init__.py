"""Encoder grafting: which vision encoder suits which VLA backbone, before anyone spends a cluster (arXiv 2606.14153)."""
