"""Settings for all tests: the signals that tests send arrive, and no machine is too slow for hypothesis.

Who starts pytest in the background of a script (`pytest &`, nohup) has it inherit that SIGINT, SIGQUIT or SIGHUP are
ignored (POSIX, Shell Command Language, 2.11): tests that interrupt would then wait for ever.
"""

import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# A worker of xdist beside this one may take the processor for seconds, which says nothing about a strategy.
settings.register_profile("arl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("arl")
