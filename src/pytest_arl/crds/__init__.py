"""The custom resources ``arl.infra.io/v1alpha1``: WarmPool, Sandbox and Task.

The models in :mod:`pytest_arl.crds.models` are the single source of the manifests (``python -m pytest_arl.crds``
writes them), of the client's types and of the operator's.
"""
