"""Traces of calls for OpenTelemetry; off, and nothing of it imported, without `--otlp`."""
