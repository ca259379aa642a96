"""Front ends: from the text of a flow to a `Plan`."""

if __name__ != "flowbridge.adapters":
    raise ImportError(f"this is flowbridge.adapters, not {__name__}: import flowbridge.adapters")
