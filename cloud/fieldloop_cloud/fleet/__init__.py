"""Back home: store what devices say, notice drift, ask for labels, retrain and roll out."""
