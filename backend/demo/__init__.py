"""What a first start shows: models that train in seconds, and data to look at. Never used in production."""
