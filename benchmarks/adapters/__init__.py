"""One module for each contender, run inside that contender's environment: only the standard library and it there."""
