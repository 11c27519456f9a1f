"""Keys in local files: who may read them, what is refused, and that nothing is overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provledger import kms
from provledger.errors import KMSError
from provledger.jwk import Algorithm, verify_signature
from provledger.kms import local
from provledger.kms.errors import (
    KMSConfigError,
    KMSKeyExistsError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSUnavailableError,
)

MESSAGE = b"what is signed"
SECRET = b"correct horse battery staple"


def private_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("algorithm", Algorithm)
async def test_created_key_opens_and_signs(tmp_path: Path, algorithm: Algorithm) -> None:
    public_key = await kms.create_key("local:witness-1.pem", algorithm, tmp_path)
    signer = await kms.open_signer("local:witness-1.pem", tmp_path)
    assert (signer.algorithm, signer.public_key) == (algorithm, public_key)
    assert signer.uri == "local:witness-1.pem"
    verify_signature(public_key, await signer.sign(MESSAGE), MESSAGE)
    await signer.close()


async def test_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.pem"
    public_key = local.create_key(path)
    signer = await kms.open_signer(f"local:{path}", tmp_path / "not-there")
    assert signer.public_key == public_key


def test_new_file_is_closed_to_others_and_complete(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        local.create_key(tmp_path / "key.pem")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"], "no scratch file is left"
    assert (tmp_path / "key.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    local.create_key(path)
    before = path.read_bytes()
    with pytest.raises(KMSKeyExistsError, match="exists already"):
        local.create_key(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_of_a_key_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its hidden name it would stay beside a key that is moved to a safer place."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    other = private_file(tmp_path / ".other.pem.0123456789abcdef", b"of another one")
    path = tmp_path / "key.pem"
    for call in ("link", "unlink"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, killed)
            patched.setattr(os, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                local.create_key(path)
        assert len(list(tmp_path.glob(".key.pem.*"))) == 1
        if call == "link":
            local.create_key(path)
            path.rename(tmp_path / "first.pem")
        else:
            with pytest.raises(KMSKeyExistsError):
                local.create_key(path)
        assert list(tmp_path.glob(".*")) == [other]


def test_start_removes_what_was_left_unless_it_may_still_be_written(tmp_path: Path) -> None:
    young = private_file(tmp_path / ".young.pem.0123456789abcdef", b"being written")
    old = private_file(tmp_path / ".old.pem.0123456789abcdef", b"moved away since")
    os.utime(old, (0, 0))
    linked = tmp_path / ".key.pem.0123456789abcdef"
    local.create_key(tmp_path / "key.pem")
    os.link(tmp_path / "key.pem", linked)
    ours = private_file(tmp_path / ".key.pem.backup", b"not of ours")
    local.remove_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == {tmp_path / "key.pem", young, ours}


async def test_key_that_another_process_made_meanwhile_is_one_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has removed our scratch file with all that it found."""
    path, link = tmp_path / "key.pem", os.link

    def late(*_: object, **__: object) -> None:
        monkeypatch.setattr(os, "link", link)
        local.create_key(path)
        raise FileNotFoundError

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(KMSKeyExistsError):
        local.create_key(path)
    assert list(tmp_path.iterdir()) == [path]


def test_key_in_a_missing_directory_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(KMSUnavailableError):
        local.create_key(tmp_path / "missing" / "key.pem")


async def test_encrypted_key_opens_with_its_passphrase_file_only(tmp_path: Path) -> None:
    private_file(tmp_path / "pass", SECRET + b"\nsecond line is not read\n")
    private_file(tmp_path / "wrong", b"wrong\n")
    uri = "local:key.pem?passphrase-file=pass"
    public_key = await kms.create_key(uri, Algorithm.ECDSA_P256, tmp_path)
    assert b"ENCRYPTED" in (tmp_path / "key.pem").read_bytes()
    assert (await kms.open_signer(uri, tmp_path)).public_key == public_key
    for bad, why in [
        ("local:key.pem", "is encrypted; add"),
        ("local:key.pem?passphrase-file=wrong", "passphrase is wrong"),
    ]:
        with pytest.raises(KMSConfigError, match=why) as caught:
            await kms.open_signer(bad, tmp_path)
        assert SECRET.decode() not in str(caught.value)


async def test_passphrase_for_a_plain_key_is_refused(tmp_path: Path) -> None:
    local.create_key(tmp_path / "key.pem")
    private_file(tmp_path / "pass", SECRET)
    with pytest.raises(KMSConfigError, match="not encrypted"):
        await kms.open_signer("local:key.pem?passphrase-file=pass", tmp_path)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o644, 0o602, 0o700 | 0o001])
async def test_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    local.create_key(path)
    path.chmod(mode)
    with pytest.raises(KMSPermissionError, match=f"mode {mode:04o}.*chmod 600"):
        await kms.open_signer("local:key.pem", tmp_path)


@pytest.mark.parametrize("mode", [0o400, 0o600])
async def test_file_closed_to_others_is_read(tmp_path: Path, mode: int) -> None:
    local.create_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)
    await kms.open_signer("local:key.pem", tmp_path)


def status(*, uid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, 0, 10, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "mode", "why"),
    [
        (1000, 0o600, None),
        (1000, 0o640, "open to others"),
        (0, 0o440, None),  # a secret mounted by root, for our group
        (0, 0o444, "open to others"),
        (0, 0o460, "open to others"),
        (1001, 0o600, "another user"),
    ],
)
def test_rule_for_owner_and_mode(
    monkeypatch: pytest.MonkeyPatch, uid: int, mode: int, why: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if why is None:
        local._check_private(Path("key.pem"), status(uid=uid, mode=mode))
        return
    with pytest.raises(KMSPermissionError, match=why):
        local._check_private(Path("key.pem"), status(uid=uid, mode=mode))


async def test_passphrase_file_open_to_others_is_refused(tmp_path: Path) -> None:
    private_file(tmp_path / "pass", SECRET).chmod(0o644)
    local.create_key(tmp_path / "key.pem", passphrase=SECRET)
    with pytest.raises(KMSPermissionError, match="pass"):
        await kms.open_signer("local:key.pem?passphrase-file=pass", tmp_path)


async def test_missing_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(KMSKeyNotFoundError, match=r"witness-9\.pem does not exist"):
        await kms.open_signer("local:witness-9.pem", tmp_path)


def pem_of(private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (b"x" * 70_000, "longer than"),
        (pem_of(rsa.generate_private_key(65537, 2048)), "Ed25519, P-256 or P-384"),
        (pem_of(ec.generate_private_key(ec.SECP521R1())), "Ed25519, P-256 or P-384"),
    ],
    ids=["empty", "garbage", "huge", "rsa", "p521"],
)
async def test_file_that_holds_no_usable_key_is_refused(
    tmp_path: Path, content: bytes, why: str
) -> None:
    private_file(tmp_path / "key.pem", content)
    with pytest.raises(KMSConfigError, match=why):
        await kms.open_signer("local:key.pem", tmp_path)


async def test_directory_or_pipe_is_refused_without_hanging(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("dir", "pipe"):
        with pytest.raises(KMSError):
            await kms.open_signer(f"local:{name}", tmp_path)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "must look like"),
        ("witness-1.pem", "must look like"),
        ("local:", "must look like"),
        ("locl:key.pem", "unknown scheme"),
        ("local:../key.pem", r"without \.\."),
        ("local:a/../../key.pem", r"without \.\."),
        ("local:/", "name a file"),
        ("local:key.pem?passphrase=hunter2", "only passphrase-file"),
        ("local:key.pem?passphrase-fil=hunter2", "only passphrase-file"),
        ("local:key.pem?", "only passphrase-file"),
        ("local:key.pem?passphrase-file=", "has no path"),
        ("local:key\n.pem", "printable"),
        ("local:key\0.pem", "printable"),
        ("local:" + "x" * 1100, "1024 bytes"),
        ("local:\ud800", "printable"),
    ],
)
async def test_uri_with_a_mistake_is_refused_before_any_file_is_touched(
    tmp_path: Path, uri: str, why: str
) -> None:
    with pytest.raises(KMSConfigError, match=why) as checked:
        kms.check_uri(uri)
    with pytest.raises(KMSConfigError, match=why):
        await kms.open_signer(uri, tmp_path)
    assert "hunter2" not in str(checked.value)


def test_private_key_is_not_shown(tmp_path: Path) -> None:
    local.create_key(tmp_path / "key.pem")
    assert "private" not in repr(local._open("local:key.pem", tmp_path / "key.pem", None)).lower()
