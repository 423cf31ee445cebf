"""Floor 2: the use cases, as plain classes over the ports."""
