"""The default engine: aioquic, and what we put over it. Nothing else knows that it is there."""
