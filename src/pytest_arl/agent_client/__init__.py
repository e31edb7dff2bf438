"""The host's end of an agent: what is asked of it and what it answers, over a socket pair or a pod's port.

channel           one connection: requests, their answers, and streams of bytes
agent_config      the first message: what the agent is to be
sandbox           a sandbox behind a channel, as a session uses it
direct_sandbox    the same where a backend starts the agent itself
task_run          one task: what is sent, and the results as they come
running_process   a background step
file_transfer     files in and out; ``arrivals`` and ``arriving_links`` a download that is not trusted,
                  ``budget`` how much of a sandbox is kept here
"""
