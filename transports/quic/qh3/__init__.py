"""The second engine: qh3, whose packets are handled by native code. Nothing else knows that it is there."""
