"""Criteria: what each says about a fitted model, where it is valid, and refusals elsewhere."""
