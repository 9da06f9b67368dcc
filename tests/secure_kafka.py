"""A Kafka that asks who is there: SASL, TLS and mutual TLS, each on a port of its own, with certificates made here.

It is no part of the stack that users start; it is made of the same pieces.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from ops import jars, processes
from ops.progress import silent
from ops.servers import Kafka, Site
from ops.state import Server
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

USER, PASSWORD = "alice", "alice's secret"
KEY_PASSWORD = "the key's secret"

#: Listener, and the kind of its connections.  EXPIRED is TLS with a certificate that was good last year.
LISTENERS = {
    "broker": "PLAINTEXT",
    "controller": "PLAINTEXT",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_ssl": "SASL_SSL",
    "ssl": "SSL",
    "expired": "SSL",
}

DAY = dt.timedelta(days=1)


class Authority:
    """Signs certificates; its own stands in ``ca.pem``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {folder.name}")])
        now = dt.datetime.now(dt.UTC)
        builder = _certificate(self._name, self._key, (now - DAY, now + DAY)).issuer_name(self._name)
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256())
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, days: tuple[int, int] = (-1, 1), password: str | None = None) -> None:
        """Write ``<name>.pem``, its ``.key``, and both as ``.store``; good between those two days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        hosts = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(processes.HOST))])
        builder = _certificate(subject, key, (now + days[0] * DAY, now + days[1] * DAY)).issuer_name(self._name)
        made = builder.add_extension(hosts, critical=False).sign(self._key, hashes.SHA256())
        secret = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
        chain = made.public_bytes(Encoding.PEM)
        (self.folder / f"{name}.pem").write_bytes(chain)
        (self.folder / f"{name}.key").write_bytes(private)
        (self.folder / f"{name}.store").write_bytes(private + chain)


def _certificate(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, good: tuple[dt.datetime, dt.datetime]
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(good[0]).not_valid_after(good[1])


class SecureKafka(Kafka):
    """The stack's Kafka with four listeners more."""

    ports: ClassVar[tuple[str, ...]] = tuple(LISTENERS)

    @staticmethod
    def _settings(site: Site) -> dict[str, str]:
        listeners = ",".join(f"{name.upper()}://{site.address(name)}" for name in LISTENERS)
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        certificates = site.folder / "certificates"
        return Kafka._settings(site) | {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{name.upper()}:{kind}" for name, kind in LISTENERS.items()),
            "inter.broker.listener.name": "BROKER",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,PLAIN",
            **{
                f"listener.name.{name}.{mechanism}.sasl.jaas.config": module
                for name in ("sasl_plaintext", "sasl_ssl")
                for mechanism, module in (("scram-sha-256", scram), ("plain", plain))
            },
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "server.store"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates / "ca.pem"),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.expired.ssl.keystore.type": "PEM",
            "listener.name.expired.ssl.keystore.location": str(certificates / "expired.store"),
        }

    @staticmethod
    def _format_options() -> list[str]:
        return ["--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"]


@dataclass(frozen=True, slots=True)
class Running:
    """The server, and what clients need to get in."""

    site: Site
    certificates: Path

    def address(self, listener: str) -> str:
        """Where a listener is."""
        return self.site.address(listener)


@contextmanager
def secure_kafka(folder: Path) -> Iterator[Running]:
    """Start one, with everything it needs, in *folder*; end it.

    Raises:
      JarsUnavailable, PackageMissing: it cannot be had on this machine.
    """
    kind = SecureKafka()
    ports = dict(zip(LISTENERS, processes.free_ports(len(LISTENERS), set()), strict=True))
    site = Site(
        Server(name="kafka", kind="kafka", version=jars.KAFKA_VERSION, ports=ports), folder, "", short_lived=True
    )
    class_path: Sequence[Path] = jars.fetch([("kafka", jars.KAFKA_VERSION)], silent)[("kafka", jars.KAFKA_VERSION)]
    authority = Authority(folder / "certificates")
    authority.issue("server")
    authority.issue("expired", days=(-9, -2))
    authority.issue("client", password=KEY_PASSWORD)
    authority.issue("former-client", days=(-9, -2))
    kind.prepare(site, class_path)
    process = processes.spawn(kind.command(site, class_path), cwd=folder, log=site.log, environment=site.marker)
    try:
        wait_until(lambda: kind.answers(site) or not process.alive, kind.start_timeout_s, "the secure Kafka")
        assert process.alive, processes.tail(site.log)
        yield Running(site, authority.folder)
    finally:
        processes.kill(process)
