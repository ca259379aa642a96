"""WIT worlds of WebAssembly operators. None is published yet."""

if __name__ != "flowbridge.wit":
    raise ImportError(f"this is flowbridge.wit, not {__name__}: import flowbridge.wit")
