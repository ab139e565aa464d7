"""Training: from a data set and a device to measured, gated models."""
