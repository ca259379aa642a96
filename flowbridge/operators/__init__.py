"""The operators that a flow may name by one word."""
