"""Everything about devices in the field: ingest, store, drift, labels, rollout, retraining."""
