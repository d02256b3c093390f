"""Which rank holds which experts, judged by recorded routing. Numpy alone, and pyarrow for trace files.

trace_writer -> DIR -> trace_reader -> Load -> policies -> Placement -> step_time (with dispatch) -> evaluate, cli
"""
