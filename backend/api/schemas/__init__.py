"""The wire models: a change here is a change of the public contract."""
