"""`claprt bench --against`: claprt and other ways to run CLAP, in turn, each in a process of its own.

`against` compares, `worker` runs a side's process, `catalogue` knows the peers, `figures` makes ratios, rows and the
table. The files in `workers` are executed by their paths, on the Python of whichever environment has that peer.
"""
