"""Whole studies, from nothing to a report: what `fovea demo` and `fovea reproduce` run."""
