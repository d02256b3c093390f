"""The models that are served, and how that changes while the server runs."""
