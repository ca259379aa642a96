"""The tier between machines: QUIC connections that a session outlives."""
