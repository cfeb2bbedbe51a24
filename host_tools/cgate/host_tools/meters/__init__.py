"""Power meters: samples and edges from instruments, and joules of windows from those."""
