"""The tier of one machine: Unix sockets between processes, and shared memory for what is large."""
