"""The cluster's control plane: WarmPools become Deployments, Sandboxes get pods, Tasks are run by the agents in them.

Pure functions decide (``pooling``, ``template``, ``pod_problems``, ``lifetimes``, ``task_message``, ``progress``,
``task_status``, ``sandbox_status``): state in, actions out. What talks to the API server or to an agent stands at the
edge (``async_api``, ``watching``, ``agent_link``, ``idle_links``, ``election``, ``keys``) and is driven by three
keepers, of a pool, of a sandbox and of a task, which look at the level and never at a single event. Each is given the
``context``, and ``control`` wakes them.
"""
