"""From a fitted model to a TFLite flatbuffer: exact, or refused."""
