"""Data: where rows come from, what they look like, and how they are split."""
