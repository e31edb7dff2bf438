"""The cluster's control plane: WarmPools become Deployments, Sandboxes get pods, Tasks are run by the agents in them.

What is decided is decided by pure functions (``pooling``, ``template``, ``trouble``, ``lifetimes``, ``wire``,
``progress``, ``task_status``, ``sandbox_status``): state in, actions out. What talks to the API server or to an agent
stands at the edge (``api``, ``link``, ``lobby``, ``election``, ``keys``) and is driven by three keepers, of a pool, of
a sandbox and of a task, which look at the level and never at a single event. kopf brings the events (``main``).
"""
