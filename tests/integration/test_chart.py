"""The Helm chart: what it refuses, what it renders, and who may call whom by its policies."""

from __future__ import annotations

import json
import re
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from scripts import reference_docs

from provledger import settings
from provledger.api.anchor.v1.anchor_pb2 import DESCRIPTOR
from provledger.settings import ConfigError
from tests.support.rendered import CHART, Manifest, helm, of_kind, pod_of, render, values

pytestmark = pytest.mark.timeout(300)  # the decoder may have to be built first

SETS = {
    "production": ("production",),
    "gcp": ("gcp",),
    "local": ("local",),
    "fips": ("local", "fips"),
    "aws-fips": ("production", "fips"),
}


@pytest.fixture(scope="module", params=list(SETS))
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(*values(*SETS[request.param]))


@pytest.mark.parametrize("name", list(SETS))
def test_lint_finds_nothing(name: str) -> None:
    helm("lint", "--strict", str(CHART), *values(*SETS[name]))


def test_without_values_it_names_all_that_is_missing() -> None:
    refused = helm("template", "demo", str(CHART), check=False)
    assert refused.returncode != 0
    needed = ["image.repository", "keys.tls.secret", "ledger.database.secret", "callers.operators",
              "firstKeys.witness", "firstKeys.recovery", "gateway.tls.rpcSecret"]  # fmt: skip
    assert [name for name in needed if f"- {name}: " not in refused.stderr] == []


@pytest.mark.parametrize(
    ("sets", "option", "message"),
    [
        (("local",), "anchor.replicas=2", "anchor.replicas"),
        (("local",), "keys.settings.port=1", "keys.settings.port: the chart sets this itself"),
        (("local",), "ledger.settings.tenant_quota=1", 'name of "tenant_quota"'),
        (("local",), "ledgr.replicas=2", "ledgr"),
        (("local",), "firstKeys.witness=vault:x", "firstKeys.witness"),
        (("local",), "keyFiles.secret=", "keyFiles.secret: firstKeys.witness is a file of it"),
        (("local",), "witness.tls.secret=", "no service listens without TLS"),
        (("local",), "image.digest=sha256:12", "image.digest"),
        (("local",), "gateway.tilesFrom=store", "anchor.tileStore: gateway.tilesFrom is store"),
        (
            ("local",),
            "anchor.sinks=null,anchor.waitForSinks=true",
            "there are no sinks to wait for",
        ),
        (("production",), "gateway.tilesFrom=volume", "not on a volume"),
        (("local",), "callers.operators={*}", 'callers.operators: "*" is no name'),
        (("local",), "callers.operators={ }", 'callers.operators: " " is no name'),
        (("local",), "callers.operators={anonymous}", '"anonymous" is no name'),
        (("local",), "callers.operators={*.example.org}", '"*.example.org" is no name'),
        (
            ("local",),
            "keys.pdb.minAvailable=2,keys.pdb.maxUnavailable=1",
            "keys.pdb: minAvailable or",
        ),
        (("local",), r"callers.operators={a\,*}", 'callers.operators: "a,*" is no name'),
        (("local",), "callers.operators={a; *=*}", 'callers.operators: "a; *=*" is no name'),
        (("local",), r"callers.clients={a\,b}", 'callers.clients: "a,b" is no name'),
        (("local",), "gateway.principal=*", 'gateway.principal: "*" is no name'),
        (("gcp",), "notary.replicas=2", "notary.replicas: one process"),
        (("gcp",), "notary.replicas=2,notary.database.secret=db", "notary.replicas: one process"),
        (("local", "fips"), "ledger.settings.default_suite=blake3", "suite blake3 of the ledger"),
        (("local", "fips"), "anchor.settings.suite=blake3-all", "suite blake3-all of the anchor"),
        (
            ("production",),
            "firstKeys.enabled=false,firstKeys.witness=,firstKeys.checkpoint=,firstKeys.head=",
            "networkPolicy.egress.kms: where the key service of witness and anchor is",
        ),
        (("local",), "alerts.leaveOut={Provledger}", "alerts.yaml has no rule Provledger"),
        (("gcp", "fips"), "image.tag=x", "the notary has no FIPS mode"),
        (("local", "fips"), "extraEnv[0].name=OPENSSL_CONF", "OPENSSL_CONF is the chart's to set"),
    ],
)
def test_what_cannot_work_is_refused(sets: tuple[str, ...], option: str, message: str) -> None:
    refused = helm("template", "demo", str(CHART), *values(*sets), "--set", option, check=False)
    assert refused.returncode != 0
    assert message in refused.stderr


def test_every_pod_is_restricted(manifests: list[Manifest]) -> None:
    """The Pod Security Standard `restricted`, a read-only root, and no token of the cluster's."""
    for each in [*of_kind(manifests, "Deployment").values(), *of_kind(manifests, "Job").values()]:
        spec = pod_of(each)["spec"]
        assert spec["automountServiceAccountToken"] is False
        # With service links, PROVLEDGER_KEYS_PORT would be tcp://10.0.0.1:7001.
        assert spec["enableServiceLinks"] is False
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] != 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["privileged"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_settings_are_settings_of_the_services(
    manifests: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each service reads its environment, and finds everything it needs and nothing unknown."""
    for name, each in of_kind(manifests, "Deployment").items():
        (container,) = pod_of(each)["spec"]["containers"]
        env = {item["name"]: item.get("value", "sqlite:///x") for item in container["env"]}
        config = settings.load(_settings_of(name), name, env=env)
        assert config.host == "0.0.0.0"
        assert config.tls_cert is not None
        assert config.port == container["ports"][0]["containerPort"]
        # A drain has to end before the kill comes.
        grace_s = pod_of(each)["spec"]["terminationGracePeriodSeconds"]
        assert grace_s >= getattr(config, "grace_s", 0) + 10
        env["PROVLEDGER_" + name.upper() + "_TYPO"] = "1"
        with pytest.raises(ConfigError):
            settings.load(_settings_of(name), name, env=env)


def test_a_cluster_of_ipv6_has_services_that_listen_there() -> None:
    for host in ("0.0.0.0", "::"):
        rendered = render(*values("production"), "--set-string", f"listenHost={host}")
        text = json.dumps(of_kind(rendered, "NetworkPolicy"))
        assert ("fd00:ec2::23/128" in text) == (host == "::")
        for name, each in of_kind(rendered, "Deployment").items():
            (container,) = pod_of(each)["spec"]["containers"]
            env = {item["name"]: item.get("value") for item in container["env"]}
            assert env[f"PROVLEDGER_{name.upper()}_HOST"] == host
    refused = helm("template", "d", str(CHART), "--set", "listenHost=10.0.0.1", check=False)
    assert "listenHost" in refused.stderr


def test_a_start_that_waits_for_keys_is_not_killed_for_it(manifests: list[Manifest]) -> None:
    """They are made by somebody, who may come tomorrow; each kill makes the next start later."""
    for each in of_kind(manifests, "Deployment").values():
        probe = pod_of(each)["spec"]["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 12 * 3600


CALLED_BY_LEDGER = {
    name.removeprefix("AnchorService/")
    for name, callers in reference_docs.CALLED_BY.items()
    if name.startswith("AnchorService/") and "ledger" in callers
}


def _settings_of(name: str) -> Any:
    from importlib import import_module

    return import_module(f"{name}_svc.config").Settings


def test_callers_are_allowed_what_they_do_and_no_more() -> None:
    from provledger.rpc.auth import AllowList

    deployments = of_kind(render(*values("production")), "Deployment")
    lists = {}
    for name in ("keys", "witness", "ledger", "anchor"):
        (container,) = pod_of(deployments[name])["spec"]["containers"]
        env = {item["name"]: item.get("value", "sqlite:///x") for item in container["env"]}
        config = settings.load(_settings_of(name), name, env=env)
        lists[name] = AllowList(config.allowed_callers)
    api = "/provledger.api."
    operator = "spiffe://example.org/operators/provledger"

    def may(service: str, method: str) -> set[str]:
        callers = lists[service].callers(f"{api}{service}.v1.{service.title()}Service/{method}")
        assert callers is not None
        return {caller.removeprefix("demo-provledger-") for caller in callers} - {operator}

    assert may("keys", "WatchKeys") == {"witness", "ledger", "anchor"}
    assert may("keys", "ReportSigner") == {"witness", "anchor"}
    assert may("keys", "RecordKeyEvent") == may("keys", "ListKeyEvents") == {"ledger"}
    assert may("keys", "GetJwks") == {"gateway"}
    for method in ("CreateKey", "RotateKey", "RevokeKey", "ProposeGenesis", "RebuildRegistry"):
        assert may("keys", method) == set()
    assert may("witness", "WitnessBatch") == {"ledger"}
    methods = DESCRIPTOR.services_by_name["AnchorService"].methods_by_name
    # What docs/rpcs.md says, besides the gateway, which reads the bucket here.
    assert {each for each in methods if may("anchor", each) != set()} == CALLED_BY_LEDGER
    assert {*chain(*(may("anchor", each) for each in CALLED_BY_LEDGER))} == {"ledger"}
    clients = {f"spiffe://example.org/ns/shop/sa/{name}" for name in ("orders", "billing")}
    assert may("ledger", "Append") == clients


def test_gateway_at_the_anchor_may_read_and_nothing_else() -> None:
    manifests = of_kind(render(*values("local")), "Deployment")
    (container,) = pod_of(manifests["anchor"])["spec"]["containers"]
    env = {item["name"]: item.get("value", "sqlite:///x") for item in container["env"]}
    allowed = settings.load(_settings_of("anchor"), "anchor", env=env).allowed_callers
    may = {
        name.rpartition("/")[2] for name in allowed if "demo-provledger-gateway" in allowed[name]
    }
    assert may == {"ListLogs", "GetCheckpoint", "GetTile"}


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ("keys.replicas=2", {"minAvailable": 1}),
        ("keys.replicas=2,keys.pdb.minAvailable=50%", {"minAvailable": "50%"}),
        ("keys.replicas=2,keys.pdb.maxUnavailable=1", {"maxUnavailable": 1}),
        (
            "keys.replicas=2,keys.pdb.minAvailable=null,keys.pdb.maxUnavailable=0",
            {"maxUnavailable": 0},
        ),
    ],
)
def test_a_budget_says_one_of_the_two(options: str, budget: dict[str, Any]) -> None:
    made = of_kind(render(*values("local"), "--set", options), "PodDisruptionBudget")["keys"]
    assert {name: made["spec"][name] for name in made["spec"] if name != "selector"} == budget


def test_fips_is_set_everywhere() -> None:
    manifests = render(*values("production", "fips"))
    found = {**of_kind(manifests, "Deployment"), **of_kind(manifests, "Job")}
    for name, each in found.items():
        (container,) = pod_of(each)["spec"]["containers"]
        env = {item["name"]: item.get("value") for item in container["env"]}
        assert env["PROVLEDGER_FIPS"] == "1", name
        # Private copies of the module need a place that is writable and may execute.
        assert env["PROVLEDGER_FIPS_DIR"] == "/run/provledger/fips"
        assert env["AWS_USE_FIPS_ENDPOINT"] == "true"
        assert env.get("PROVLEDGER_ANCHOR_SUITE") == ("fips" if name == "anchor" else None)
        assert env.get("PROVLEDGER_LEDGER_DEFAULT_SUITE") == ("fips" if name == "ledger" else None)
    off = of_kind(render(*values("production")), "Deployment")["keys"]
    assert {"name": "PROVLEDGER_FIPS", "value": "0"} in pod_of(off)["spec"]["containers"][0]["env"]


def test_budgets_are_for_what_has_replicas() -> None:
    manifests = render(*values("production"))
    budgets = of_kind(manifests, "PodDisruptionBudget")
    replicas = {n: d["spec"]["replicas"] for n, d in of_kind(manifests, "Deployment").items()}
    assert set(budgets) == {name for name, count in replicas.items() if count > 1}
    # One writer: the new anchor starts when the old one is gone.
    assert of_kind(manifests, "Deployment")["anchor"]["spec"]["strategy"]["type"] == "Recreate"


def test_no_budget_is_made_where_none_is_wanted() -> None:
    manifests = render(*values("local"), "--set", "ledger.replicas=2,ledger.pdb=null")
    assert "ledger" not in of_kind(manifests, "PodDisruptionBudget")
    assert of_kind(manifests, "Deployment")["ledger"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("text", ["quorum none\n", "  # ours\nquorum none\n", "\n\tx\n  y\n"])
def test_a_policy_is_taken_as_it_is_indented(text: str, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text(text)
    set_file = ("--set-file", f"anchor.policy={tmp_path / 'policy'}")
    made = of_kind(render(*values("local"), *set_file), "ConfigMap")["anchor"]
    assert made["data"]["policy"].rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("sinks", "policy", "told"),
    [
        ("null", "", True),
        ("null", "quorum none\n", True),
        ("{https://witness.example.net/}", "", False),
        ("null", "sink b s3://audit/x?mode=COMPLIANCE\nquorum b\n", False),
        ("null", "quorum none\n\n\twitness w1 w1+12+AQ== https://witness.example.net/\n", False),
    ],
)
def test_the_notes_miss_a_sink_only_where_none_is_named(
    sinks: str, policy: str, told: bool, tmp_path: Path
) -> None:
    """Helm renders notes for nobody but a cluster: here a manifest holds them."""
    chart = tmp_path / "provledger"
    shutil.copytree(CHART, chart)
    notes = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "zz.yaml").write_text(
        f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}'
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: notes\n  labels:\n"
        "    app.kubernetes.io/component: notes\n"
        'data:\n  notes: {{ include "notes" . | quote }}\n'
    )
    (tmp_path / "policy").write_text(policy)
    sets = ("--set", f"anchor.sinks={sinks}", "--set-file", f"anchor.policy={tmp_path / 'policy'}")
    made = of_kind(render(*values("local"), *sets, chart=chart), "ConfigMap")["notes"]
    assert ("No sink is set" in made["data"]["notes"]) == told


def test_another_pod_of_the_first_keys_is_another_job(tmp_path: Path) -> None:
    """Else an upgrade fails: Kubernetes lets nobody change the pod of a Job."""
    newer = tmp_path / "provledger"
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub(r"(?m)^(version|appVersion):.*", r"\1: 9.9.9", about))

    def job(*options: str, chart: Path = CHART) -> tuple[str, str]:
        sets = [word for option in options for word in ("--set", option)]
        (found,) = of_kind(render(*values("local"), *sets, chart=chart), "Job").values()
        return found["metadata"]["name"], json.dumps(pod_of(found), sort_keys=True)

    names: dict[str, str] = {}
    for options in (
        (),
        ("otel.endpoint=http://collector:4317",),
        ("otel.env.OTEL_TRACES_SAMPLER=always_off",),
        ("keys.port=7101",),
        ("extraEnv[0].name=AWS_REGION", "extraEnv[0].value=eu-central-1"),
        ("podSecurityContext.fsGroup=2000",),
        ("imagePullSecrets[0]=registry",),
        ("firstKeys.serviceAccount.name=other",),
        ("image.tag=0.2.0",),
    ):
        name, pod = job(*options)
        assert names.setdefault(name, pod) == pod
        assert len(name) <= 63
    assert len(names) == 9
    # The version is of the chart; without a tag, it is also the image's.
    assert job(chart=newer) == job()
    assert job("image.tag=", chart=newer)[0] not in names


@pytest.mark.parametrize("more", [(), ("--set", "notary.database.secret=notary-db")])
def test_two_pods_never_use_one_volume(more: tuple[str, ...]) -> None:
    """The second would not start, or not even get the volume, and the first would never end."""
    manifests = [*render(*values("gcp"), *more), *render(*values("local"))]
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    assert len(claims) == 2
    for each in [m for m in manifests if m["kind"] == "Deployment"]:
        volumes = pod_of(each)["spec"]["volumes"]
        used = [v for v in volumes if v.get("persistentVolumeClaim", {}).get("claimName") in claims]
        if used:
            assert each["spec"]["replicas"] == 1
            assert each["spec"]["strategy"]["type"] == "Recreate"


def test_first_keys_of_a_token_get_its_pin() -> None:
    """A `pkcs11:` URI names the PIN's file, which the Job needs as the services do."""
    sets = [
        "firstKeys.extraVolumes[0].name=pin",
        "firstKeys.extraVolumes[0].secret.secretName=token-pin",
        "firstKeys.extraVolumeMounts[0].name=pin",
        "firstKeys.extraVolumeMounts[0].mountPath=/etc/pin",
        "firstKeys.recoverySecret=",
        "firstKeys.recovery=pkcs11:token=t;object=r?pin-source=/etc/pin/pin",
        "keyFiles.secret=",
    ] + [
        f"firstKeys.{name}=pkcs11:token=t;object={name}?pin-source=/etc/pin/pin"
        for name in ("witness", "checkpoint", "head", "receipt")
    ]
    options = [word for option in sets for word in ("--set", option)]
    (job,) = of_kind(render(*values("local"), *options), "Job").values()
    spec = pod_of(job)["spec"]
    (pin,) = [volume for volume in spec["volumes"] if volume["name"] == "pin"]
    assert pin["secret"] == {"secretName": "token-pin"}
    (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "pin"]
    assert mount["mountPath"] == "/etc/pin"


# --- who calls whom

EDGES = {
    ("ledger", "keys"), ("ledger", "witness"), ("ledger", "anchor"),
    ("witness", "keys"), ("anchor", "keys"), ("gateway", "keys"), ("gateway", "anchor"),
    ("first-keys", "keys"), ("first-keys", "ledger"),
    ("client", "ledger"), ("operator", "keys"), ("operator", "witness"), ("operator", "ledger"),
    ("operator", "anchor"), ("operator", "gateway"),
    ("client", "gateway"), ("stranger", "gateway"),
}  # fmt: skip


def test_policies_admit_the_calls_of_the_design_and_nothing_else() -> None:
    """Both ends must agree: the caller's egress and the ingress of the one it calls."""
    operators = "networkPolicy.operators[0].podSelector.matchLabels.role=operator"
    manifests = render(*values("local"), "--set", operators)
    policies = of_kind(manifests, "NetworkPolicy")
    pods = {**of_kind(manifests, "Deployment"), **of_kind(manifests, "Job")}
    labels = {name: pod_of(each)["metadata"]["labels"] for name, each in pods.items()}
    outside = {
        "client": {"provledger.dev/client": "true"},
        "operator": {"role": "operator"},
        "stranger": {"app": "x"},
    }
    for name, policy in policies.items():
        assert _matches(policy["spec"]["podSelector"], labels[name])
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    found = {
        (caller, called)
        for caller, theirs in (labels | outside).items()
        for called in labels
        if caller != called
        and _admits(policies[called]["spec"].get("ingress", []), "from", theirs)
        and (
            caller in outside
            or _admits(policies[caller]["spec"].get("egress", []), "to", labels[called])
        )
    }
    assert found == EDGES


@pytest.mark.parametrize("source", ["store", "volume"])
def test_gateway_that_reads_elsewhere_does_not_call_the_anchor(source: str) -> None:
    store = ("--set", "anchor.tileStore=s3://bucket/x") if source == "store" else ()
    manifests = render(*values("local"), "--set", f"gateway.tilesFrom={source}", *store)
    (container,) = pod_of(of_kind(manifests, "Deployment")["gateway"])["spec"]["containers"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert "PROVLEDGER_GATEWAY_ANCHOR_ENDPOINT" not in env
    policies = of_kind(manifests, "NetworkPolicy")
    labels = pod_of(of_kind(manifests, "Deployment")["gateway"])["metadata"]["labels"]
    assert not _admits(policies["anchor"]["spec"]["ingress"], "from", labels)
    mounted = [mount["name"] for mount in container["volumeMounts"]]
    assert ("data" in mounted) == (source == "volume")


def test_only_signing_services_reach_key_services() -> None:
    for name, policy in of_kind(render(*values("gcp")), "NetworkPolicy").items():
        ports = {
            port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])
        }
        assert (443 in ports) == (name in ("witness", "anchor", "first-keys")), name
        assert (5432 in ports) == (name in ("keys", "ledger", "anchor")), name


NO_FIRST_KEYS = "firstKeys.enabled=false,firstKeys.witness=,firstKeys.checkpoint=,firstKeys.head="
VOLUMES = "witness.extraVolumes[0].name=token,anchor.extraVolumes[0].name=token"


@pytest.mark.parametrize(
    ("sets", "reaches"),
    [
        ("firstKeys.enabled=false", True),  # the URIs are read, though nothing runs for them
        (f"{NO_FIRST_KEYS},networkPolicy.egress.kms[0].ports[0].port=443", True),
        (f"{NO_FIRST_KEYS},keyFiles.secret=keys", False),
        (f"{NO_FIRST_KEYS},{VOLUMES}", False),
    ],
)
def test_keys_that_are_registered_by_hand_are_reached_as_well(sets: str, reaches: bool) -> None:
    """Keys in files and in tokens take no network."""
    more = ("--set", sets, "--set", "firstKeys.receipt=,firstKeys.recovery=,otel.endpoint=")
    policies = of_kind(render(*values("production"), *more), "NetworkPolicy")
    # What else witness calls: the names of services, and keys.
    assert (len(policies["witness"]["spec"]["egress"]) > 2) == reaches


def test_policies_are_not_asked_for_where_there_are_none() -> None:
    more = ("--set", f"{NO_FIRST_KEYS},networkPolicy.enabled=false")
    assert not of_kind(render(*values("production"), *more), "NetworkPolicy")


def test_no_delay_before_the_drain_is_none() -> None:
    """0 is a value, not the lack of one."""
    sets = ("--set", "gateway.settings.drain_delay_s=0,gateway.settings.grace_s=0")
    pods = {
        way: pod_of(of_kind(render(*values("production"), *more), "Deployment")["gateway"])
        for way, more in (("default", ()), ("none", sets))
    }
    found = {}
    for way, pod in pods.items():
        (container,) = pod["spec"]["containers"]
        env = {item["name"]: item.get("value") for item in container["env"]}
        drain = env["PROVLEDGER_GATEWAY_DRAIN_DELAY_S"], env.get("PROVLEDGER_GATEWAY_GRACE_S")
        found[way] = (*drain, pod["spec"]["terminationGracePeriodSeconds"])
    assert found == {"default": ("5", None, 35), "none": ("0", "0", 20)}


@pytest.mark.parametrize("way", ["--set", "--set-string"])
def test_half_a_second_of_grace_is_granted_as_a_whole_one(way: str) -> None:
    options = (way, "keys.settings.grace_s=30.5")
    pod = pod_of(of_kind(render(*values("local"), *options), "Deployment")["keys"])
    assert pod["spec"]["terminationGracePeriodSeconds"] == 20 + 31 + 5


POLICY = """\
sink bucket s3://anchors/prod?mode=COMPLIANCE
witness w1 example.net+1234abcd+AQ== https://witness.example.net
quorum w1
"""
IDENTITY = "169.254.170.23/32"


@pytest.mark.parametrize(
    ("sinks", "policy", "https", "identity"),
    [
        ("null", "", False, False),
        ("{file:///var/lib/provledger/anchors}", "quorum none\n", False, False),
        ("{https://witness.example.net/}", "", True, False),
        ("{file:///data/https:,s3://anchors/prod}", "", True, True),
        ("null", POLICY, True, True),
        ("null", POLICY.split("\n", 1)[1], True, False),
    ],
)
def test_anchor_reaches_its_sinks_wherever_they_are_named(
    sinks: str, policy: str, https: bool, identity: bool, tmp_path: Path
) -> None:
    """In the list, or in the text of the policy; buckets with the identity of the pod."""
    (tmp_path / "policy").write_text(policy)
    sets = ("--set", f"anchor.sinks={sinks}", "--set-file", f"anchor.policy={tmp_path / 'policy'}")
    policies = of_kind(render(*values("local"), *sets), "NetworkPolicy")
    assert _reaches(policies["anchor"]) == (https, identity)
    own = ("--set", "networkPolicy.egress.sinks[0].ports[0].port=9000")
    policies = of_kind(render(*values("local"), *sets, *own), "NetworkPolicy")
    assert _reaches(policies["anchor"]) == (False, False)


@pytest.mark.parametrize("tiles_from", ["store", "anchor"])
def test_who_uses_the_bucket_of_tiles_reaches_it_and_its_identity(tiles_from: str) -> None:
    sets = ("--set", f"anchor.tileStore=s3://bucket/x,gateway.tilesFrom={tiles_from}")
    policies = of_kind(render(*values("local"), *sets), "NetworkPolicy")
    reaches = {name for name, policy in policies.items() if _reaches(policy) == (True, True)}
    assert reaches == {"anchor"} | ({"gateway"} if tiles_from == "store" else set())
    assert {_reaches(policies[name]) for name in set(policies) - reaches} == {(False, False)}


@pytest.mark.parametrize(
    ("sets", "ports"),
    [
        ("anchor.sinks={https://h.example.net:8443/x}", {"anchor": {8443}}),
        (
            "anchor.sinks={https://h.example.net/x:9,https://[fd00::5]:8443}",
            {"anchor": {443, 8443}},
        ),
        ("anchor.sinks={s3://b/p?endpoint=http://minio:9000&mode=X}", {"anchor": {9000}}),
        ("anchor.sinks={s3://b/p?mode=X&endpoint=http%3A%2F%2Fminio}", {"anchor": {80}}),
        ("anchor.sinks={s3://b/p?endpoint=https%3a%2f%2fminio%3a9000}", {"anchor": {9000}}),
        ("anchor.sinks={s3://b/p?endpoint=https://minio/,s3://c}", {"anchor": {443}}),
        (
            "anchor.tileStore=s3://b/p?endpoint=http://minio:9000,gateway.tilesFrom=store",
            {"anchor": {9000}, "gateway": {9000}},
        ),
    ],
)
def test_what_a_uri_names_is_reached_at_its_port(sets: str, ports: dict[str, set[int]]) -> None:
    policies = of_kind(render(*values("local"), "--set", sets), "NetworkPolicy")
    before = of_kind(render(*values("local")), "NetworkPolicy")
    metadata = {80, 988} if "s3:" in sets else set()
    assert {
        name: called
        for name, policy in policies.items()
        if (called := _anywhere(policy) - _anywhere(before[name]))
    } == ports
    for name in ports:
        assert metadata <= _called(policies[name])


@pytest.mark.parametrize(
    ("sets", "port"),
    [
        ("otel.endpoint=http://c:4318", 4318),
        ("otel.endpoint=http://c", 4317),
        ("otel.endpoint=http://c:4318,networkPolicy.egress.otel[0].ports[0].port=9", 9),
    ],
)
def test_the_collector_is_reached_at_its_port(sets: str, port: int) -> None:
    before = of_kind(render(*values("local")), "NetworkPolicy")
    for name, policy in of_kind(render(*values("local"), "--set", sets), "NetworkPolicy").items():
        assert _anywhere(policy) - _anywhere(before[name]) == {port}


def _anywhere(policy: Manifest) -> set[int | str]:
    """Ports at which a pod may call whomever."""
    rules = [rule for rule in policy["spec"]["egress"] if "to" not in rule]
    return {port["port"] for rule in rules for port in rule["ports"]}


def _called(policy: Manifest) -> set[int | str]:
    return {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}


def _reaches(policy: Manifest) -> tuple[bool, bool]:
    """Whether a pod may call HTTPS anywhere, and where cloud identities come from."""
    rules = policy["spec"]["egress"]
    https = {"ports": [{"protocol": "TCP", "port": 443}]}
    blocks = [peer.get("ipBlock", {}).get("cidr") for rule in rules for peer in rule.get("to", [])]
    assert blocks.count(IDENTITY) <= 1
    return https in rules, IDENTITY in blocks


def _admits(rules: list[Any], end: str, labels: dict[str, str]) -> bool:
    """Whether a rule for the services' port lets pods of these labels in this namespace through."""
    for rule in rules:
        if {"protocol": "TCP", "port": "service"} not in rule.get("ports", []):
            continue
        peers = rule.get(end)
        if not peers or any(
            _matches(p["podSelector"], labels) for p in peers if "podSelector" in p
        ):
            return True
    return False


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


# --- the image


def test_the_image_runs_as_the_user_that_the_chart_names() -> None:
    text = (Path(CHART).parents[1] / "docker" / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+)", text, re.MULTILINE)
    pod = pod_of(of_kind(render(*values("local")), "Deployment")["keys"])["spec"]
    assert user is not None
    assert int(user[1]) == pod["securityContext"]["runAsUser"]
