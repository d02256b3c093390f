"""`vlmoe bench`: how fast this machine runs a model, beside its dense twin, stock torch, and what the machine could do.

    cases.py     batches, by name
    weights.py   random ones, or a checkpoint's
    routing.py   experts that all get the same share
    stock.py     the same operations in stock torch, as kernel backends
    networks.py  the columns of the table: networks over the same weights
    work.py      multiply-adds and bytes of a batch
    limits.py    the rates of the machine
    timing.py    columns in turns, medians
    memory.py    peak memory
    report.py    rows: JSON and a table
    cli.py       the command

With the engine the only place of torch in this package. It starts no server and no other process.
"""
