"""Small vision-language models that condition a policy (VLA-Adapter, FocusVLA)."""
