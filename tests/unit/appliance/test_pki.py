"""The lab's keys: each bad one is bad in exactly the way that it says."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from appliance.lab.pki import Identity, Keys


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.create("169.254.10.2")


def certificate(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate.encode())


def common_name(identity: Identity) -> str:
    (attribute,) = certificate(identity).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def signed_by_the_authority(keys: Keys, identity: Identity) -> bool:
    try:
        certificate(identity).verify_directly_issued_by(certificate(keys.authority.identity))
    except Exception:  # noqa: BLE001  # cryptography raises several types here
        return False
    return True


def expired(identity: Identity) -> bool:
    return certificate(identity).not_valid_after_utc < dt.datetime.now(dt.UTC)


def revoked(keys: Keys, identity: Identity) -> bool:
    crl = x509.load_pem_x509_crl(keys.crl.encode())
    return crl.get_revoked_certificate_by_serial_number(identity.serial) is not None


@pytest.mark.parametrize(
    ("name", "trusted", "old", "withdrawn", "called"),
    [
        ("manager", True, False, False, "sysvm-manager"),
        ("revoked", True, False, True, "sysvm-manager"),
        ("expired", True, True, False, "sysvm-manager"),
        ("stranger", False, False, False, "sysvm-manager"),
        ("misnamed", True, False, False, "somebody-else"),
    ],
)
def test_a_client_is_bad_in_its_own_way(
    keys: Keys, name: str, trusted: bool, old: bool, withdrawn: bool, called: str
) -> None:
    identity: Identity = getattr(keys, name)
    assert signed_by_the_authority(keys, identity) is trusted
    assert expired(identity) is old
    assert revoked(keys, identity) is withdrawn
    assert common_name(identity) == called


def test_the_server_is_named_by_its_addresses(keys: Keys) -> None:
    extensions = certificate(keys.server).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {
        "169.254.10.2",
        "127.0.0.1",
        "::1",
    }


def test_the_authority_has_what_strict_clients_ask_for(keys: Keys) -> None:
    extensions = certificate(keys.authority.identity).extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    signer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert signer.key_identifier == own.digest


def test_keys_are_read_back_as_they_were_written(keys: Keys, tmp_path: Path) -> None:
    keys.write(tmp_path / "keys")
    assert Keys.load(tmp_path / "keys") == keys
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}
    assert modes[".key"] == 0o600
