"""Sources: where raw inputs come from."""
