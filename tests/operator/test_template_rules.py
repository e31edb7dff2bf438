"""What a pool's template may not have, and what it may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_arl.cluster import pod
from pytest_arl.operator.pod_problems import DEFAULT_CONTAINER
from pytest_arl.operator.template import Agent, TemplateInvalid, deployment, pod_template
from pytest_arl.operator.template_rules import refuse
from tests.operator.objects import pool

ROOT = Path(__file__).parents[2]
PLACES = ("containers", "initContainers")


def made(the_pool: Any) -> Any:
    return pod_template(the_pool, Agent("agent:1", "Never", "[keys]", b"secret"))


def with_pod(**spec: Any) -> Any:
    the_pool = pool()
    the_pool["spec"]["template"]["spec"] |= spec
    return the_pool


def with_neighbour(place: str = "containers", **container: Any) -> Any:
    the_pool = pool()
    spec = the_pool["spec"]["template"]["spec"]
    spec[place] = [*spec.get(place, ()), {"name": "beside", "image": "x", **container}]
    return the_pool


@pytest.mark.parametrize(
    "security",
    [
        {"privileged": True},
        {"capabilities": {"add": ["SYS_ADMIN"]}},
        {"capabilities": {"add": ["CHOWN", "ALL"]}},
        {"capabilities": {"add": ["NET_RAW"]}},
        {"procMount": "Unmasked"},
        {"appArmorProfile": {"type": "Unconfined"}},
        {"seLinuxOptions": {"type": "spc_t"}},
        {"seLinuxOptions": {"user": "system_u"}},
        {"windowsOptions": {"hostProcess": True}},
    ],
    ids=str,
)
def test_no_container_has_privileges(security: Any) -> None:
    field = next(iter(security))
    for the_pool in (
        pool(securityContext=security),
        *(with_neighbour(place, securityContext=security) for place in PLACES),
    ):
        with pytest.raises(TemplateInvalid, match=rf"container \w+: securityContext\.{field}.* no privileges"):
            made(the_pool)


@pytest.mark.parametrize("place", PLACES)
def test_nothing_beside_the_executor_is_unconfined(place: str) -> None:
    with pytest.raises(TemplateInvalid, match=r"container beside: securityContext\.seccompProfile"):
        made(with_neighbour(place, securityContext={"seccompProfile": {"type": "Unconfined"}}))


@pytest.mark.parametrize(
    "security",
    [
        {"seccompProfile": {"type": "Unconfined"}},
        {"appArmorProfile": {"type": "Unconfined"}},
        {"windowsOptions": {"hostProcess": True}},
        {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
    ],
    ids=str,
)
def test_nor_has_the_pod(security: Any) -> None:
    with pytest.raises(TemplateInvalid, match=r"spec\.template\.spec: securityContext\."):
        made(with_pod(securityContext=security))


def test_what_people_run_beside_a_sandbox_is_taken_as_it_is() -> None:
    database = {
        "env": [{"name": "POSTGRES_PASSWORD", "value": "x"}],
        "ports": [{"containerPort": 5432}],
        "securityContext": {
            "runAsUser": 0,
            "capabilities": {"add": ["CHOWN", "SETUID", "SETGID"], "drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0:c1", "type": "container_t"},
        },
        "readinessProbe": {"httpGet": {"port": 8080}, "tcpSocket": None},
        "livenessProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}, "postStart": None},
        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPathExpr": "$(X)"}],
    }
    for place in PLACES:
        the_pool = with_neighbour(place, **database)
        spec = the_pool["spec"]["template"]["spec"]
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "s", "secret": {}}]
        spec["securityContext"] = {"fsGroup": 7, "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}
        assert {"name": "beside", "image": "x", **database} in made(the_pool)["spec"][place]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["/arl", "/arl/lib", "//arl-spool/", "/x/../arl"])
def test_no_container_has_anything_where_the_agents_folders_are(place: str, path: str) -> None:
    for lies in (
        {"volumeMounts": [{"name": "mine", "mountPath": path}]},
        {"volumeDevices": [{"name": "mine", "devicePath": path}]},
        {"terminationMessagePath": path},
    ):
        with pytest.raises(
            TemplateInvalid, match=r"container beside mounts something at .*, which is reserved for the agent"
        ):
            made(with_neighbour(place, **lies))
        with pytest.raises(
            TemplateInvalid, match=r"container executor mounts something at .*, which is reserved for the agent"
        ):
            made(pool(**lies))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("volume", ["arl-folder", "arl-spool", "arl-workspace", "arl-tmp"])
@pytest.mark.parametrize("way", [{"subPathExpr": "$(X)"}, {"subPath": "lib"}, {"readOnly": True}], ids=str)
def test_no_container_names_a_volume_of_the_agents_in_any_way(place: str, volume: str, way: Any) -> None:
    for mounts in (
        {"volumeMounts": [{"name": volume, "mountPath": "/m", **way}]},
        {"volumeDevices": [{"name": volume, "devicePath": "/dev/m"}]},
    ):
        with pytest.raises(
            TemplateInvalid, match=f"container beside mounts the volume {volume}, which is reserved for the agent"
        ):
            made(with_neighbour(place, **mounts))


@pytest.mark.parametrize("path", ["/proc", "/proc/1", "/sys/fs/cgroup", "//sys"])
def test_the_executor_has_nothing_where_the_kernels_folders_are(path: str) -> None:
    mounts = [{"name": "mine", "mountPath": path}]
    with pytest.raises(TemplateInvalid, match="which belongs to the kernel"):
        made(pool(volumeMounts=mounts))
    made(pool(volumeMounts=[{"name": "mine", "mountPath": "/dev/shm"}]))


TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", [f"/up/arl-{TOKEN}", f"/a/b/arl-{TOKEN}/start", "/up/arl-spool", "/up/arl-spool/x"])
def test_the_agents_folders_are_not_reached_through_a_link_of_the_image(place: str, path: str) -> None:
    ways: tuple[Any, ...] = (
        {"volumeMounts": [{"name": "mine", "mountPath": path}]},
        {"volumeDevices": [{"name": "mine", "devicePath": path}]},
    )
    for lies in ways:
        with pytest.raises(TemplateInvalid, match="reserved for the agent"):
            made(pool(**lies))
        with pytest.raises(TemplateInvalid, match="reserved for the agent"):
            made(with_neighbour(place, **lies))


@pytest.mark.parametrize("path", ["/up/proc", "/up/sys", "/up/sys/fs/cgroup", "/a/b/proc/self"])
def test_nor_are_the_kernels(path: str) -> None:
    with pytest.raises(TemplateInvalid, match="which belongs to the kernel"):
        made(pool(volumeMounts=[{"name": "mine", "mountPath": path}]))
    with pytest.raises(TemplateInvalid, match=r"spec\.sandbox\.workDir"):
        made(pool(sandbox={"workDir": path}))


@pytest.mark.parametrize(
    "path",
    [
        "/x/arl",
        f"/arl-{TOKEN[1:]}",
        f"/arl-{TOKEN}0",
        f"/xarl-{TOKEN}",
        "/arl-spools",
        "/process",
        "/a/sys.d",
        "/x/asys",
    ],
)
def test_paths_that_only_look_reserved_can_be_mounted(path: str) -> None:
    made(pool(volumeMounts=[{"name": "mine", "mountPath": path}]))


def at(*paths: str, **more: Any) -> Any:
    return pool(volumeMounts=[{"name": f"v{number}", "mountPath": path} for number, path in enumerate(paths)], **more)


@pytest.mark.parametrize(
    ("paths", "outer", "inner"),
    [
        (["/vol", "/vol/up"], "/vol", "/vol/up"),
        (["/vol/up/x", "/vol"], "/vol", "/vol/up/x"),
        (["/vol//", "/vol/./up/"], "/vol", "/vol/up"),
        (["/", "/vol"], "/", "/dev/mqueue"),
        (["/a", "/a-b", "/a/b", "/a0"], "/a", "/a/b"),
        (["/etc"], "/etc", "/etc/hostname"),
        (["/dev"], "/dev", "/dev/mqueue"),
        (["/dev/shm/x"], "/dev/shm", "/dev/shm/x"),
        (["/etc/hosts/x"], "/etc/hosts", "/etc/hosts/x"),
        (["/workspace/a/b"], "/workspace", "/workspace/a/b"),
        (["/workspace/a", "/workspace/b/c"], "/workspace", "/workspace/b/c"),
        (["/workspace/a", "/workspace/a/b"], "/workspace/a", "/workspace/a/b"),
        (["/workspace", "/workspace/a"], "/workspace", "/workspace/a"),
    ],
    ids=str,
)
def test_nothing_is_mounted_below_another_mount(paths: list[str], outer: str, inner: str) -> None:
    """The container runtime follows a link that lies in the outer one."""
    with pytest.raises(TemplateInvalid, match=f"has mounts at {outer} and below it, at {inner}: "):
        made(at(*paths))


def test_a_device_and_the_work_folder_are_mounts_too() -> None:
    devices = [{"name": "d", "devicePath": "/vol/up/x"}]
    with pytest.raises(TemplateInvalid, match="has mounts at /vol and below it, at /vol/up/x"):
        made(at("/vol", volumeDevices=devices))
    made(at("/volume", volumeDevices=devices))
    with pytest.raises(TemplateInvalid, match="has mounts at /vol and below it, at /vol/work"):
        made(at("/vol", sandbox={"workDir": "/vol/work"}))
    made(at("/vol", sandbox={"workDir": "/vol"}))


def test_mounts_beside_each_other_and_directly_in_the_operators_own_folders_are_taken() -> None:
    made(
        at("/vol", "/volume", "/vol-up", "/dev/shm", "/etc/ssl/certs", "/etc/hosts", "/workspace/cache", "/workspace/x")
    )
    made(at("/tmp/x", securityContext={"readOnlyRootFilesystem": True}))
    with pytest.raises(TemplateInvalid, match="has mounts at /tmp and below it, at /tmp/x/y"):
        made(at("/tmp/x/y", securityContext={"readOnlyRootFilesystem": True}))
    made(at("/tmp/x/y"))
    beside = [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a/b"}]
    made(with_neighbour(volumeMounts=beside))


@pytest.mark.parametrize("folder", ["/arl", "/arl/lib", "/arl-spool", "//arl", "/proc", "/sys/x"])
def test_the_work_folder_is_not_the_agents(folder: str) -> None:
    with pytest.raises(TemplateInvalid, match=r"spec\.sandbox\.workDir"):
        made(pool(sandbox={"workDir": folder}))
    made(pool(sandbox={"workDir": "/arl-work"}))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"nodeName": "control-plane"}, "nodeName cannot be used in a pool: .*nodeSelector"),
        ({"activeDeadlineSeconds": 60}, r"activeDeadlineSeconds cannot.*maxLifetimeSeconds"),
        ({"readinessGates": [{"conditionType": "x/y"}]}, "readinessGates cannot"),
        ({"priorityClassName": "system-node-critical"}, "priorityClassName: the system's classes"),
        (
            {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
            "volume host: hostPath cannot.*persistentVolumeClaim",
        ),
        ({"volumes": [{"name": "arl-folder", "emptyDir": {}}]}, "the name of volume arl-folder"),
    ],
    ids=str,
)
def test_what_a_pod_may_not_have_is_said_with_the_cure(spec: Any, said: str) -> None:
    with pytest.raises(TemplateInvalid, match=said):
        made(with_pod(**spec))


def test_what_a_pod_may_have_stays() -> None:
    spec: Any = {
        "activeDeadlineSeconds": None,
        "affinity": {"nodeAffinity": {}},
        "dnsPolicy": "Default",
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["x"]}],
        "hostUsers": False,
        "imagePullSecrets": [{"name": "s"}],
        "nodeSelector": {"pool": "tests"},
        "priorityClassName": "tests",
        "runtimeClassName": "gvisor",
        "schedulerName": "other",
        "schedulingGates": [{"name": "theirs"}],
        "serviceAccountName": "tests",
        "tolerations": [{"key": "tests"}],
    }
    found = made(with_pod(**spec))["spec"]
    assert {field: found[field] for field in spec} == spec


def test_a_pods_end_is_the_operators() -> None:
    found = made(with_pod(terminationGracePeriodSeconds=10**6, restartPolicy="Never", enableServiceLinks=True))["spec"]
    assert (found["terminationGracePeriodSeconds"], found["restartPolicy"], found["enableServiceLinks"]) == (
        pod.GRACE_SECONDS,
        "Always",
        False,
    )


def terms(kind: str, term: Any) -> list[Any]:
    """The two places of a term of a pod's affinity."""
    return [
        {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "t"}, term]}},
        {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}},
    ]


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
@pytest.mark.parametrize(
    "named",
    [
        {"namespaces": ["arl-system"]},
        {"namespaces": []},
        {"namespaceSelector": {}},
        {"namespaceSelector": {"matchLabels": {"a": "b"}}},
    ],
    ids=str,
)
def test_pods_of_other_namespaces_are_kept_from_no_node(kind: str, named: Any) -> None:
    """The scheduler keeps a pod from where one stands that wants none of its kind beside it: the operator's own, too."""
    here = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
    field = next(iter(named))
    for affinity in terms(kind, {**here, **named}):
        with pytest.raises(TemplateInvalid, match=rf"spec\.template\.spec\.affinity\.{kind}: {field} cannot be used"):
            made(with_pod(affinity=affinity))
    for affinity in terms(kind, {**here, "matchLabelKeys": ["x"], "namespaces": None, "namespaceSelector": None}):
        assert made(with_pod(affinity=affinity))["spec"]["affinity"] == affinity


@pytest.mark.parametrize("field", ["finalizers", "ownerReferences"])
def test_metadata_that_would_keep_pods_is_refused(field: str) -> None:
    the_pool = pool()
    the_pool["spec"]["template"]["metadata"] = {field: ["example.com/keep"]}
    with pytest.raises(TemplateInvalid, match=rf"spec\.template\.metadata\.{field} cannot"):
        made(the_pool)


def test_of_metadata_only_labels_and_annotations_are_taken_and_none_of_ours() -> None:
    the_pool = pool()
    forged = {pod.SANDBOX_LABEL: "theirs", pod.RUN_LABEL: "r", pod.POOL_LABEL: "other", pod.STATUS_LABEL: "allocated"}
    the_pool["spec"]["template"]["metadata"] = {
        "name": "x",
        "namespace": "kube-system",
        "creationTimestamp": None,
        "generateName": "y",
        "labels": {"app": "tests", **forged},
        "annotations": {"a": "b", "arl.infra.io/mark": "forged"},
    }
    meta = made(the_pool)["metadata"]
    assert meta.keys() == {"labels", "annotations"}
    assert meta["labels"] == {"app": "tests", pod.POOL_LABEL: "pool"}
    assert meta["annotations"] == {"a": "b", DEFAULT_CONTAINER: "executor"}
    labels = deployment(the_pool, made(the_pool))["spec"]["template"]["metadata"]["labels"]
    assert labels == {"app": "tests", pod.POOL_LABEL: "pool", pod.STATUS_LABEL: pod.STATUS_IDLE}


def test_the_old_way_to_ask_for_no_apparmor_is_refused() -> None:
    the_pool = pool()
    name = "container.apparmor.security.beta.kubernetes.io/executor"
    the_pool["spec"]["template"]["metadata"] = {"annotations": {name: "unconfined"}}
    with pytest.raises(TemplateInvalid, match="cannot be unconfined"):
        made(the_pool)
    the_pool["spec"]["template"]["metadata"] = {"annotations": {name: "runtime/default"}}
    made(the_pool)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"ports": [{"containerPort": 80, "hostPort": 80}]}, "hostPort cannot"),
        ({"ports": [{"containerPort": pod.PORT}]}, f"the port {pod.PORT} is reserved"),
        ({"livenessProbe": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}, "livenessProbe names a host"),
        ({"readinessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}}, "readinessProbe names a host"),
        ({"lifecycle": {"preStop": {"httpGet": {"host": "metadata"}}}}, "lifecycle names a host"),
        ({"lifecycle": {"postStart": {"tcpSocket": {"host": "x"}}}}, "lifecycle names a host"),
    ],
    ids=str,
)
def test_ports_and_hosts_of_the_node_are_refused(place: str, container: Any, said: str) -> None:
    with pytest.raises(TemplateInvalid, match=f"container beside: {said}"):
        made(with_neighbour(place, **container))


def test_ports_of_the_executor_are_bounded_like_others() -> None:
    with pytest.raises(TemplateInvalid, match="container executor: hostPort"):
        made(pool(ports=[{"containerPort": 8080, "hostPort": 8080}]))
    made(pool(ports=[{"containerPort": 8080, "hostPort": 0}]))


@pytest.mark.parametrize("name", [pod.POD_UID_VARIABLE, pod.OPERATOR_KEYS_VARIABLE, "ARL_ANYTHING"])
def test_a_variable_that_no_step_would_see_is_refused(name: str) -> None:
    with pytest.raises(TemplateInvalid, match=f"the variable {name} cannot be set: .*rename it"):
        made(pool(env=[{"name": name, "value": "x"}]))
    made(pool(env=[{"name": "MY_ARL_VARIABLE", "value": "x"}]))


def test_the_message_of_an_end_lies_where_the_agent_is_not() -> None:
    """The kubelet mounts a file that steps can write wherever the template says."""
    found = made(pool(terminationMessagePath="/mine", terminationMessagePolicy="FallbackToLogsOnError"))
    executor = found["spec"]["containers"][1]
    assert executor["terminationMessagePath"] == "/dev/termination-log"
    assert executor["terminationMessagePolicy"] == "File"


def test_a_work_folder_with_a_dollar_is_told_to_the_agent_as_it_is() -> None:
    found = made(pool(env=[{"name": "X", "value": "elsewhere"}], sandbox={"workDir": "/a$(X)$$"}))
    executor = found["spec"]["containers"][1]
    assert {"name": pod.WORKSPACE_VARIABLE, "value": "/a$$(X)$$$$"} in executor["env"], "two are one to Kubernetes"
    assert executor["workingDir"] == "/a$(X)$$"


def test_the_agent_is_told_which_of_the_kubelets_variables_are_the_templates() -> None:
    env = [{"name": "KUBERNETES_SERVICE_HOST", "value": "h"}, {"name": "A", "value": "b"}]
    for given, kept in ((env, "KUBERNETES_SERVICE_HOST"), (env[1:], "")):
        executor = made(pool(env=given))["spec"]["containers"][1]
        # Said where there is none, too: else the variable of that name counts that an image may have.
        assert {"name": pod.KEPT_VARIABLE, "value": kept} in executor["env"]


@pytest.mark.parametrize(
    ("limits", "volumes", "largest"),
    [
        ({}, [], ""),
        ({"memory": "1Gi"}, [{"emptyDir": {"sizeLimit": "1Gi"}}], ""),
        ({"ephemeral-storage": "64Mi"}, [], str(64 << 20)),
        ({"ephemeral-storage": "64Mi"}, [{"emptyDir": {"sizeLimit": "1Gi"}}, {"emptyDir": {}}], str(1 << 30)),
        ({"ephemeral-storage": "64Mi"}, [{"configMap": {"name": "x"}}], str(64 << 20)),
        ({"ephemeral-storage": "64Mi"}, [{"persistentVolumeClaim": {"claimName": "x"}}], ""),
    ],
)
def test_the_agent_is_told_the_largest_file_that_its_pod_has_room_for(limits: Any, volumes: Any, largest: str) -> None:
    """/dev/termination-log lies on the node's disk and counts nowhere."""
    named = [{"name": f"v{number}", **each} for number, each in enumerate(volumes)]
    body = pool(resources={"limits": limits})
    body["spec"]["template"]["spec"]["volumes"] = named
    executor = made(body)["spec"]["containers"][1]
    assert {"name": pod.FILE_BYTES_VARIABLE, "value": largest} in executor["env"]


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"spec": []}, "spec.template.spec"),
        ({"metadata": "x"}, "spec.template.metadata"),
        ({"metadata": {"labels": [1]}}, "spec.template.metadata.labels"),
        ({"spec": {"containers": {"a": 1}}}, "spec.template.spec.containers"),
        ({"spec": {"containers": ["x"]}}, "spec.template.spec.containers[0]"),
        ({"spec": {"containers": [None]}}, "spec.template.spec.containers"),
        ({"spec": {"containers": [{"name": 1}]}}, "spec.template.spec.containers[0].name"),
        ({"spec": {"containers": [{"name": "a", "env": {}}]}}, "spec.template.spec.containers[0].env"),
        (
            {"spec": {"containers": [{"name": "a", "volumeMounts": [{"name": []}]}]}},
            "containers[0].volumeMounts[0].name",
        ),
        ({"spec": {"containers": [{"name": "a", "resources": {"limits": "x"}}]}}, "containers[0].resources.limits"),
        (
            {"spec": {"containers": [{"name": "a", "securityContext": {"capabilities": 1}}]}},
            "securityContext.capabilities",
        ),
        (
            {"spec": {"containers": [{"name": "a", "securityContext": {"capabilities": {"add": [{}]}}}]}},
            "capabilities.add[0]",
        ),
        ({"spec": {"containers": [{"name": "a"}], "initContainers": 5}}, "spec.template.spec.initContainers"),
        ({"spec": {"containers": [{"name": "a"}], "volumes": [[]]}}, "spec.template.spec.volumes[0]"),
        ({"spec": {"containers": [{"name": "a", "livenessProbe": "x"}]}}, "containers[0].livenessProbe"),
        ({"spec": {"affinity": []}}, "spec.template.spec.affinity"),
        ({"spec": {"affinity": {"podAffinity": "x"}}}, "spec.affinity.podAffinity"),
        ({"spec": {"affinity": terms("podAntiAffinity", 1)[0]}}, "DuringExecution[1]"),
        ({"spec": {"affinity": terms("podAntiAffinity", 1)[1]}}, "Execution[0].podAffinityTerm"),
    ],
    ids=str,
)
def test_a_template_that_is_none_is_told_where(template: Any, field: str) -> None:
    """The API server takes anything there; the operator goes on."""
    the_pool = pool()
    the_pool["spec"]["template"] = template
    with pytest.raises(TemplateInvalid) as told:
        made(the_pool)
    assert f"{field} is not a" in str(told.value)


@pytest.mark.parametrize(
    ("field", "item", "most"),
    [
        ("containers", {"name": "c", "image": "x"}, 64),
        ("initContainers", {"name": "c", "image": "x"}, 64),
        ("volumes", {"name": "v", "emptyDir": {}}, 256),
    ],
)
def test_a_template_has_so_many_containers_and_volumes_and_no_more(field: str, item: Any, most: int) -> None:
    made(with_pod(**{field: [item] * most}))
    with pytest.raises(TemplateInvalid, match=rf"spec\.template\.spec\.{field} has {most + 1} items: at most {most}"):
        made(with_pod(**{field: [item] * (most + 1)}))


@pytest.mark.parametrize(
    ("field", "items", "most"),
    [
        ("env", lambda count: [{"name": f"V{number}"} for number in range(count)], 1024),
        ("volumeMounts", lambda count: [{"name": "v", "mountPath": f"/m{number}"} for number in range(count)], 256),
        ("ports", lambda count: [{"containerPort": 1}] * count, 256),
        ("resources", lambda count: {"limits": {f"r{number}": 1 for number in range(count)}}, 256),
    ],
)
def test_nor_has_a_container_lists_without_an_end(field: str, items: Any, most: int) -> None:
    made(pool(**{field: items(most)}))
    with pytest.raises(TemplateInvalid, match=f"has {most + 1} items: at most {most}"):
        made(pool(**{field: items(most + 1)}))


def test_nor_is_any_other_list_of_it_without_an_end() -> None:
    """The API server compares each toleration with each, and takes seconds for thousands."""
    made(with_pod(tolerations=[{"key": "k"}] * 1024))
    with pytest.raises(TemplateInvalid, match=r"spec\.template\.spec\.tolerations has 1025 items: at most 1024"):
        made(with_pod(tolerations=[{"key": "k"}] * 1025))
    sources = [{"configMap": {"name": "c"}}] * 1025
    with pytest.raises(TemplateInvalid, match=r"volumes\[0\]\.projected\.sources has 1025 items"):
        made(with_pod(volumes=[{"name": "v", "projected": {"sources": sources}}]))


def test_the_names_of_volumes_are_gone_through_once_and_not_for_each_container() -> None:
    class Counted(dict[str, Any]):
        looked = 0

        def get(self, key: str, default: Any = None) -> Any:
            Counted.looked += key == "name"
            return super().get(key, default)

    counts = []
    for containers in (1, 60):
        volumes = [Counted(name=f"v{number}", emptyDir={}) for number in range(200)]
        the_pool = with_pod(volumes=volumes)
        the_pool["spec"]["template"]["spec"]["containers"] *= containers
        Counted.looked = 0
        refuse(the_pool["spec"]["template"], the_pool["spec"]["template"]["spec"]["containers"][0], "/workspace")
        counts.append(Counted.looked)
    assert counts[0] == counts[1]


def documented() -> list[Any]:
    """Every WarmPool that the documentation and the examples have."""
    texts = [(ROOT / "conftest_examples" / "pools.yaml").read_text(encoding="utf-8")]
    parts = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").split("```")
    texts += [part.removeprefix("yaml\n") for part in parts[1::2] if part.startswith("yaml\n")]
    found = [each for text in texts for each in yaml.safe_load_all(text)]
    return [each for each in found if isinstance(each, dict) and each.get("kind") == "WarmPool"]


@pytest.mark.parametrize("the_pool", documented(), ids=lambda the_pool: the_pool["metadata"]["name"])
def test_the_pools_of_the_documentation_are_taken(the_pool: Any) -> None:
    the_pool["metadata"] |= {"namespace": "ns", "uid": "u"}
    assert made(the_pool)["spec"]["containers"][1]["image"]


def test_there_are_pools_in_the_documentation() -> None:
    assert len(documented()) >= 6
