"""fieldloop on the workstation: from data to a model in the field, and back."""

__version__ = "0.1.0"
