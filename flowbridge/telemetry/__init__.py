"""What a run shows to the outside: metrics for Prometheus and OpenTelemetry, sampled traces, logs.

Nothing is imported here, so that a run without telemetry loads none of its libraries.
"""
