"""Bytes in shared memory: the home of the ipc tier's data plane. Nothing is built here yet."""

if __name__ != "flowbridge.shm":
    raise ImportError(f"this is flowbridge.shm, not {__name__}: import flowbridge.shm")
