"""The tiers: each is a folder that keeps the two contracts, `EventBus` and `DataPort`, and knows no other tier."""

if __name__ != "flowbridge.transports":
    raise ImportError(f"this is flowbridge.transports, not {__name__}: import flowbridge.transports")
