"""What pytest-arl costs, measured beside what a user might pick instead: ``python -m benchmarks``.

Everything that is compared is measured in one run, taking turns, after a warm-up, each contender in a process of its
own; so a busy moment of the machine meets all of them alike, and ratios hold where milliseconds do not.

============  =====================================================================================
contenders    who is compared, and the virtual environments of those who need one
adapters      what each contender's API looks like behind one small interface
worker        the process in which one contender runs; ``samples`` what it does there
client        this side of a worker: ask, wait, give up
rows          what is measured, with its units and its number of samples
compare       takes turns, row by row
felt          whole runs of pytest: what a user waits for
growth        how cost grows with live sandboxes, output and steps
soak          10,000 sandboxes in one process: does anything pile up?
usage_table   what a step used, beside what GNU time and the program itself say
profile       where the milliseconds of a sandbox go
statistics    medians, 95th percentiles
processes     what /proc says: who lives, how much memory
machine       the machine's description
report        the table, as text, as Markdown, as JSON
plots         the drawings of growth and soak
============  =====================================================================================

Nothing here is a test: no figure is asserted, on any machine.
"""
