"""Everything that client, operator and manifests have in common about a cluster.

names          group, version and limits of the custom resources ``arl.infra.io``: WarmPool, Sandbox and Task
models         what these hold: ``python -m pytest_arl.cluster`` writes ``crds/`` from them by way of ``schema``
fields         what client, operator and command line read of them; tests hold it to the models
objects        parts of any object: keys, conditions, owners
kinds          what all objects are called, and where they are on the API server
pod            what all sides know of a sandbox's pod; ``proof`` whose a Task is
json_text      JSON of an API server, whatever was put into it
installation   what is applied to a cluster, from ``templates/``
"""
