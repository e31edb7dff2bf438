"""(In the agent's image) Do nothing, and end at once when asked to: as PID 1, sleep(1) would not."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # every pod has one of this: nothing is loaded that is not needed

if __name__ == "__main__":
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM, _signal.SIGINT))
    _signal.sigwait((_signal.SIGTERM, _signal.SIGINT))
