"""How does a packed corpus come back? (map-style by index)."""
