"""The agent: PID 1 of every sandbox, which does all the work there.

Only the standard library is imported here, and of that only what starts in no time: builtin and
C modules. Nothing in this package knows pytest, a backend or a cluster; it serves one stream of
frames (:mod:`pytest_arl.agent.frames`) and whatever carries them is not its business.

==============  =====================================================================================
frames          the wire: values, frames, the parser (the host's end uses it too)
message_types   the messages of both ends, for type checkers: nothing of it is there at run time
system          what Python's builtins lack: prctl, openat2, limits, becoming another user
landlock        no sockets but those of the sandbox
loop            waiting: descriptors, timers, children
link            the agent's end of the stream: what is to be sent, and when to stop producing
spool           where output is kept until nobody can ask for it any more
tree            which processes live, and killing them
command         a program, found and started
unshielded      signals that reach PID 1 from inside, where the kernel lets them
pipes           a running program's streams: fed, listened to, passed on, kept
crowd           whether the sandbox has all the processes that it may, where no cgroup counts them
descriptors     whether a process has all the descriptors that it may
folder_space    whether a folder is full
ipc             System V's objects, and message queues
shared_memory   memory that a name or a descriptor holds
held_memory     what processes hold, exactly
memory_sampler  memory that a sandbox holds, by looking, where no cgroup counts it
whole_memory    the same where the machine's memory is the sandbox's own
memory_page     what the agent and the process that watches its memory share
memory_watch    memory that a sandbox holds, where a process outside watches it
limits          which limit a step ran into
usage_meter     what a step used, and the limit of its processor time
supervisor      a program beside others: how the agent knows that nothing of it is left
background      programs that outlive their step
parts           what tasks are run with
foreground      the Command that runs now, and the killing of all it leaves
step_types      each type of step: how it is said, checked and run
tasks           steps in order, cancelling
records         what is kept of them, and who is told
task_registry   each task once
files           one file: resolve, write atomically, read
entries         what both ends of a transfer say of one file: its time, its holes
transfer        files and folders that come in
departure       those that go out
checkpoint      returning to what the writable folders held
connection      one client: one message, one method
main            from exec to serving one host
auth            who may speak to an agent that listens
container       what a pod gives the agent that is PID 1 of one of its containers
registration    whose an agent that listens is, and what it was told once
handshake       those who have connected and not said who they are
clients         those who were admitted, and what each may do
listener        from exec to serving whoever connects and is admitted
==============  =====================================================================================
"""
