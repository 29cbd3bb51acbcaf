"""Ratios against peers: ours and theirs in one process, interleaved, on the same weights. `make bench` writes RESULTS.md."""
