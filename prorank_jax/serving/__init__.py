"""The parts of the HTTP server: requests, batches across requests, counters."""
