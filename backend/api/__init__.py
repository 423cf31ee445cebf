"""Floor 4: HTTP. The only place that knows FastAPI."""
