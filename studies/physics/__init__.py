"""A potential examined by physics."""
