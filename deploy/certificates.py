"""A certificate for the servers of one home to know one another by: signed by an authority whose key nobody keeps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.keys import write_private
from deploy.ports import LOOPBACK

_VALID = timedelta(days=3650)  # of a development installation; a cluster's servers bring certificates of their own


def make_certificates(folder: Path, name: str) -> None:
    """Write `ca.crt`, `own.crt` and `own.key` (mode 600) unless all are there already.

    The authority signs this one certificate and its key is forgotten: whoever asks for a certificate of it lets in nobody else.
    """
    if all((folder / file).exists() for file in ("ca.crt", "own.crt", "own.key")):
        return
    authority_key, own_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = _name(f"{name} authority")
    authority = (
        _certificate(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK)), x509.DNSName("localhost")])
    own = _certificate(_name(name), authority_name, own_key).add_extension(names, critical=False)
    own_signed = own.sign(authority_key, hashes.SHA256())
    key = own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    write_private(folder / "ca.crt", authority.public_bytes(Encoding.PEM).decode())
    write_private(folder / "own.crt", own_signed.public_bytes(Encoding.PEM).decode())
    write_private(folder / "own.key", key)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _VALID)
    )
