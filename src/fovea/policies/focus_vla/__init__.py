"""FocusVLA: cascaded attention, and focus on the vision tokens that matter (configuration, modeling, processor)."""
