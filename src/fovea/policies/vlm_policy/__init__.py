"""What VLA-Adapter and FocusVLA share: configuration, network, acting, processors."""
