"""Traces: what GLOOMPI_TRACE has written, merged and judged."""
