"""The host's end of an agent: what is asked of it and what it answers, over a socket pair or a pod's port.

messages          each message, as the host makes and reads it; ``agent_config`` the first one
channel           one connection: streams of frames, and the threads that wait for them
stream            one exchange: a request and its answers
agent_socket      the channel's socket; ``channel_errors`` what goes wrong with it
exchange          a sandbox, as those see it who ask its agent for something
sandbox           a sandbox behind a channel, as a session uses it
direct_sandbox    the same where a backend starts the agent itself
task_run          one task: the results as they come, and when the agent is no longer believed in
running_process   a background step
kept_output       all of a step's output
checkpoints       folders kept here, and what the agent remembers
file_transfer     files in and out; ``arrivals`` and ``arriving_links`` a download that is not trusted,
                  ``budget`` how much of a sandbox is kept here, ``shared_folders`` what it can write itself
"""
