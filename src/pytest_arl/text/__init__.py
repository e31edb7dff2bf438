"""Words, numbers and lines for people, said the same way everywhere.

wording      lists of names, near misses
units        durations and quantities, read and written
timestamps   moments, read and written
untrusted    text that we did not write, made safe and short enough to print
endings      how a step ended and what it used
"""
