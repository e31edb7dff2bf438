"""The page that an agent and the process that watches its memory share: numbers of 64 bits, in the machine's order.

The first six are the watcher's, the last three the agent's. A step reaches neither: what it inherits has no descriptor
of the page.
"""

from __future__ import annotations

KILLS = 0
"""The number of times that the watcher has ended everything in the sandbox but the agent."""
SEEN = 8
"""Three numbers: a step, the most bytes that were seen held while it ran, and the most of the cgroup's whole usage."""
ASLEEP = 32
"""True if the watcher looks again only once it is woken."""
FAILURE = 40
"""The errno that made watching impossible."""
STEP = 64
"""Raised when a step begins and when it ends: odd while one runs."""
OWN = 72
"""Two numbers: bytes held without any step, which are the agent's, and of these its own anonymous memory."""
SIZE = 88
