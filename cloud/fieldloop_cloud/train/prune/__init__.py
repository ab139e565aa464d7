"""Making nets less dense: whole channels taken out, or single weights set to zero."""
