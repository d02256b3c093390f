"""From a request to a batch and back: the queue, the cut, the release, and what they cost."""
