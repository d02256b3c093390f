"""Talk to a vlmoe server."""
