"""fieldloop on the device: run a signed bundle, tell the truth about the field, update safely."""

__version__ = "0.1.0"
