#!/usr/bin/env bash
# A patch of a custom resource's status with somebody else's metadata.uid is taken; the same in a patch of the object is refused.
#
# Most expect: metadata.uid in a patch is a precondition, as it is for the object itself: where the object was deleted and another of
# its name was made meanwhile, a controller that writes "its" status with the old UID is refused.
# Seen (Kubernetes 1.34): a merge patch of /status with a wrong UID is answered 200 and written. The same in a patch of the object is
# 422 Invalid (and no 409). What a patch of the status does heed is metadata.resourceVersion (409).
#
# Needs: kubectl, and KUBECONFIG of an administrator of a cluster that may be changed. Makes a CustomResourceDefinition of
# example.com, and removes it. Installs nothing. Exit status 1 where this has changed, 2 where no cluster answers.
set -euo pipefail
kubectl version --request-timeout=5s 2>/dev/null | grep Server || exit 2
trap 'kubectl delete crd notes.example.com --wait=false >/dev/null' EXIT
kubectl apply -f - >/dev/null <<'YAML'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: notes.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: notes, singular: note, kind: Note}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status: {type: object, x-kubernetes-preserve-unknown-fields: true}
YAML
kubectl wait --for condition=Established crd/notes.example.com --timeout=30s >/dev/null
for _ in $(seq 50); do
    kubectl create -f - >/dev/null 2>&1 <<<'{"apiVersion": "example.com/v1", "kind": "Note", "metadata": {"name": "n"}}' && break
    sleep 0.2
done
try() { # WHAT WORDS...
    local code=0 said
    said=$(kubectl patch note n --type=merge "${@:2}" 2>&1) || code=$?
    [ $code != 0 ] || said=taken
    printf '%-32s %.120s\n' "$1" "$said"
    return $code
}
wrong='"uid": "00000000-0000-0000-0000-000000000000"'
changed=0
! try "the object, a wrong UID:" -p "{\"metadata\": {$wrong}, \"spec\": {\"a\": 1}}" || changed=1
try "its status, a wrong UID:" --subresource=status -p "{\"metadata\": {$wrong}, \"status\": {\"a\": 1}}" || changed=1
! try "its status, an old version:" --subresource=status -p '{"metadata": {"resourceVersion": "1"}, "status": {"a": 2}}' || changed=1
exit $changed
