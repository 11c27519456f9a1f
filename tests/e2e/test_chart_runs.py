"""The chart's pods, run as they are rendered: over mutual TLS, with PostgreSQL, to a receipt."""

from __future__ import annotations

import functools
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.client import Client, Mutation
from provledger.errors import PermissionDeniedError
from provledger.fips import module
from provledger.fips.errors import FIPSConfigError
from provledger.jwk import Algorithm, jwk_from_public_key
from provledger.kms.local import create_key
from provledger.rpc.tls import TLSSettings, channel_credentials, load
from provledger.verify import verify_receipt
from tests.faults.cluster import eventually
from tests.support.certs import CertificateAuthority
from tests.support.ports import free_port
from tests.support.rendered import Node, render, values

TIMEOUT_S = 120.0
SERVICES = ("keys", "witness", "anchor", "ledger", "gateway")


def _fips_missing() -> str:
    try:
        module.find_module()
    except FIPSConfigError as error:
        return f"{error} (scripts/install_test_tools.sh)"
    return ""


def _secrets(
    directory: Path, database_url: str, algorithm: Algorithm
) -> tuple[dict[str, dict[str, bytes]], CertificateAuthority]:
    """The Secrets that `ci/local.yaml` names; a certificate begins with the Service's name."""
    authority = CertificateAuthority(directory / "ca")
    secrets: dict[str, dict[str, bytes]] = {}
    secrets |= _certificates(authority, authority.path.read_bytes())
    for service in ("keys", "ledger", "anchor"):
        secrets[f"{service}-db"] = {"url": database_url.encode()}
    for secret, kids in {
        "signing-keys": ("witness-1", "checkpoint-1", "head-1", "receipt-1"),
        "recovery-key": ("recovery-1",),
    }.items():
        secrets[secret] = {}
        for kid in kids:
            path = directory / f"{kid}.pem"
            create_key(path, algorithm)
            secrets[secret][path.name] = path.read_bytes()
    return secrets, authority


def _certificates(authority: CertificateAuthority, trusted: bytes) -> dict[str, dict[str, bytes]]:
    names = {f"{each}-tls": f"demo-provledger-{each}" for each in SERVICES}
    names["gateway-rpc-tls"] = "demo-provledger-gateway"
    names["operator-tls"] = "operator.example.org"
    secrets = {}
    for secret, name in names.items():
        issued = authority.issue(secret, dns=(name, "localhost"), ips=("127.0.0.1",))
        secrets[secret] = {
            "tls.crt": issued.cert.read_bytes(),
            "tls.key": issued.key.read_bytes(),
            "ca.crt": trusted,
        }
    return secrets


@pytest.fixture
def start(
    tmp_path: Path, postgres_database_url: str
) -> Iterator[Callable[..., tuple[Node, CertificateAuthority]]]:
    nodes: list[Node] = []

    def start(
        *sets: str, algorithm: Algorithm = Algorithm.ED25519, more: tuple[str, ...] = ()
    ) -> tuple[Node, CertificateAuthority]:
        ports = [word for name in SERVICES for word in ("--set", f"{name}.port={free_port()}")]
        secrets, authority = _secrets(tmp_path, postgres_database_url, algorithm)
        (tmp_path / "node").mkdir()
        node = Node(tmp_path / "node", render(*values(*sets), *ports, *more), secrets)
        nodes.append(node)
        for name in node.pods():
            node.start(name)
        return node, authority

    try:
        yield start
    finally:
        for node in nodes:
            node.kill()


def _document(output: str) -> Any:
    """The JSON document that ends a Job's output."""
    return json.loads(output[output.index("{\n") :])


def _wait_until_ready(node: Node) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    for name in SERVICES:
        while not node.is_ready(name):
            assert node.running[name].poll() is None, node.output(name)
            assert time.monotonic() < deadline_s, f"{name} is not ready:\n{node.output(name)}"
            time.sleep(0.5)  # each question is a process
    assert node.running["first-keys"].wait(TIMEOUT_S) == 0, node.output("first-keys")


def _receipt_verifies(
    node: Node, authority: CertificateAuthority, suite: str, tenant: str = "shop"
) -> None:
    tls = authority.issue("shop", dns=("shop.example.org",))
    address = f"localhost:{node.port('ledger')}"
    with Client(address, keys_endpoint=f"localhost:{node.port('keys')}", tls=tls) as client:
        ledger, _ = client.create_ledger(tenant)
        made = client.append(
            ledger.name,
            Mutation(
                action="CREATE",
                resource_type="Order",
                resource_id="1",
                actor_id="shop",
                new_state={"total": 12},
            ),
        )
        receipt = client.wait_for_anchor(made.name, timeout_s=30.0)
        # It may append, and it may not read, let alone change, what keys there are.
        with pytest.raises(PermissionDeniedError):
            client.jwks()
    assert receipt.suite == suite
    context = ssl.create_default_context(cafile=str(tls.ca))
    url = f"https://localhost:{node.port('gateway')}/.well-known/jwks.json"
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        jwks = answer.read()
    report = verify_receipt(receipt, jwks)
    assert report.status == "verified"


def _another_authority(node: Node, old: CertificateAuthority) -> CertificateAuthority:
    """All certificates become those of another CA under running pods, in the order of docs/helm.md.

    Then two start anew, so that everybody has to connect to them.
    """
    new = CertificateAuthority(old.directory, "new")
    ours = new.issue("somebody", dns=("somebody.example.org",))
    both = old.path.read_bytes() + new.path.read_bytes()
    node.renew({name: {"ca.crt": both} for name in _certificates(old, both)})
    _until_accepted(node, TLSSettings(ours.cert, ours.key, old.path))
    node.renew(_certificates(new, both))
    _until_accepted(node, ours)
    node.renew(_certificates(new, new.path.read_bytes()))
    for name in ("keys", "witness"):
        node.running[name].terminate()
        assert node.running[name].wait(TIMEOUT_S) == 0
        node.start(name)
    for name in ("keys", "witness", "ledger", "anchor", "gateway"):
        eventually(functools.partial(node.is_ready, name), f"{name} is ready", TIMEOUT_S)
    return new


def _until_accepted(node: Node, tls: TLSSettings) -> None:
    """Until every service takes this certificate, and shows one that it trusts."""
    loaded = load(tls)
    for name in ("keys", "witness", "ledger", "anchor"):

        def accepts(address: str = f"localhost:{node.port(name)}") -> bool:
            with grpc.secure_channel(address, channel_credentials(loaded)) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                try:
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=3)
                except grpc.RpcError:
                    return False
                return True

        eventually(accepts, f"{name} accepts it", TIMEOUT_S)


def _first_key_of_a_new_purpose(node: Node, authority: CertificateAuthority, pin: str) -> None:
    """An operator, from outside: the key ledger began without a receipt key, and gets one."""
    tls = authority.issue("operator", dns=("operator.example.org",))
    where = [
        *("--endpoint", f"keys=localhost:{node.port('keys')}"),
        *("--endpoint", f"ledger=localhost:{node.port('ledger')}"),
        *("--endpoint", f"anchor=localhost:{node.port('anchor')}"),
        *("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-ca", str(tls.ca)),
    ]
    work = node.root.parent
    key = load_pem_private_key((work / "receipt-1.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    (work / "receipt-1.jwk").write_text(json.dumps(jwk_from_public_key(key.public_key())))
    rotate = ["keys", "rotate", "--kid", "receipt-1", "--purpose", "receipt", "--no-probe"]
    rotate += ["--uri", "local:receipt-1.pem", "--jwk", "receipt-1.jwk", *where]
    refused = _command(work, *rotate)
    assert refused.returncode == 2
    assert "only the recovery key can let it in" in refused.stdout + refused.stderr
    done = _command(work, *rotate, "--recovery-key", "recovery-1.pem")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["key"]["state"], made["key"]["epoch"], made["previous"]) == ("active", 1, None)
    assert made["signers"]  # the anchor signs with it
    for command in (
        ["export", "--tenant", "shop", "--out", "x.ndjson", *where],
        ["verify", "x.ndjson", "--pin", pin],
    ):
        done = _command(work, *command)
        assert done.returncode == 0, done.stderr
    outcomes = {each["check"]: each["outcome"] for each in json.loads(done.stdout)["checks"]}
    assert outcomes["key_ledger"] == "holds"


def _command(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
    return subprocess.run(
        [sys.executable, "-m", "provledger_cli", *words, "--json"],
        env=env,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _without_certificate(node: Node, name: str, ca: Path) -> None:
    """TLS, but nothing shown: no service talks to that."""
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    with grpc.secure_channel(f"localhost:{node.port(name)}", credentials) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Check(health_pb2.HealthCheckRequest(), timeout=3)


@pytest.mark.timeout(900)
def test_rendered_pods_serve_over_mutual_tls(
    start: Callable[..., tuple[Node, CertificateAuthority]],
) -> None:
    node, authority = start("local", more=("--set", "firstKeys.receipt="))
    _wait_until_ready(node)
    first = _document(node.output("first-keys"))
    pin = first["pin"]
    assert first["registered"] == ["witness-1", "checkpoint-1", "head-1"]
    assert len(bytes.fromhex(pin)) == 32
    _receipt_verifies(node, authority, "blake3")
    for name in ("keys", "witness", "ledger", "anchor"):
        _without_certificate(node, name, authority.path)
    # The Job again, as after an upgrade: nothing is registered twice.
    assert node.start("first-keys").wait(TIMEOUT_S) == 0, node.output("first-keys")
    assert _document(node.output("first-keys")) == {"registered": [], "pin": pin}
    del node.running["first-keys"]
    authority = _another_authority(node, authority)
    _receipt_verifies(node, authority, "blake3", tenant="later")
    _first_key_of_a_new_purpose(node, authority, pin)
    assert set(node.stop().values()) == {0}


@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(_fips_missing()), reason=_fips_missing())
def test_rendered_pods_serve_in_fips_mode(
    start: Callable[..., tuple[Node, CertificateAuthority]],
) -> None:
    node, authority = start("local", "fips", algorithm=Algorithm.ECDSA_P256)
    _wait_until_ready(node)
    for name in SERVICES:
        assert '"event": "fips.ready"' in node.output(name), node.output(name)
    _receipt_verifies(node, authority, "fips")
