"""From a trained model to bytes that a device trusts: targets, keys, bundles, first flash."""
