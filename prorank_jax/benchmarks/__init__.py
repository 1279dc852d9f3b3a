"""Speed beside other libraries: the same work, the same machine, both sides in one call."""
