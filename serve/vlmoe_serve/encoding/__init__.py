"""From bytes to what the network takes: pictures decoded and cached, texts tokenised, in worker threads."""
