"""Words, numbers and lines for people, said the same way everywhere.

wording      lists of names, near misses, command lines
units        durations and quantities, read and written
timestamps   moments, read and written
untrusted    text that came out of a sandbox, made safe and short enough to print
"""
