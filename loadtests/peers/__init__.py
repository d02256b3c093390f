"""Other servers beside ours, all with the same model: the same weights, preprocessing, batch limit and threads.

python -m peers --help

systems.py          who is measured, and how each is set
apps/               one small program a server, written as its users would
environments.py     a virtual environment for each, made once
process.py          start, wait until it answers, count its processes' time and memory, end it
trial.py            one server, measured once: alone, 32 clients, Poisson arrivals, overload
results.py          what was measured, in a file that later runs add to
table.py            medians over rounds, as Markdown
"""
