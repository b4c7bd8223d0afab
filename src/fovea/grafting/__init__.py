"""Encoder grafting: which vision encoder suits which VLA backbone, before a cluster is spent (arXiv 2606.14153)."""
