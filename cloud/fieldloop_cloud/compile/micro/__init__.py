"""What TensorFlow Lite Micro needs and lacks: ops, arena, integer inputs and outputs."""
