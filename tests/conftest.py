"""What holds for all tests: the signals that tests send arrive.

Who starts pytest in the background of a script (`pytest &`, nohup) has it inherit that SIGINT, SIGQUIT or SIGHUP are
ignored (POSIX, Shell Command Language, 2.11): tests that interrupt would then wait for ever.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)
