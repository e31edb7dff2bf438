"""Everything that client, operator and manifests have in common about a cluster.

names          group, version and limits of the custom resources ``arl.infra.io``: WarmPool, Sandbox and Task
models         their single source: ``python -m pytest_arl.cluster`` writes ``crds/`` from them by way of ``schema``
objects        parts of any object: keys, times, conditions, owners
pod            what all sides know of a sandbox's pod; ``proof`` whose a Task is
json_text      JSON of an API server, whatever was put into it
installation   what is applied to a cluster, from ``templates/``
"""
