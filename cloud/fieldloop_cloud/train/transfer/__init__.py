"""Transfer learning: a backbone that has learned elsewhere, a new head, few labels."""
