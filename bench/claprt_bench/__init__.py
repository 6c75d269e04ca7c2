"""claprt_bench: how exact, how fast, against whom. Results are written as JSON with machine, versions and date."""
