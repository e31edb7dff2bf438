"""What is applied to a cluster: the operator, its rights, those of its users, and the sandboxes' network policy.

The YAML in ``templates/`` is what an administrator reads; :mod:`pytest_arl.deploy.manifests` fills it in.
"""
