"""Compiles a run's own jitted steps for TPUs that are not there, and says what they would need."""
