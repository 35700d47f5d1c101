"""A fake Azure behind an HTTPS proxy on a free port of 127.0.0.1: whatever host a client asks the
proxy for is answered here, with a certificate of a CA of its own. So `az` runs as it does against the
real Azure, names and all.

It prints its port and the path of its FOLDER, and ends when stdin does, taking the folder along.
FOLDER/ca.pem is the CA. FOLDER/VAULT/KEY/VERSION.pem is the private key of one version, and the last
one in alphabetical order is the current one; beside them may lie, read at each request:

    show.json, sign.json    members that go over those of the answer
    show.fault, sign.fault, create.fault
                            {"status", "error"} instead of an answer, or "hang" for none
    rotate                  after each show there is one version more

FOLDER/calls gets a line for each request: method, host, path and body. Paths, members and messages are
those of the Key Vault REST API, version 7.
"""

import datetime
import json
import ssl
import sys
import tempfile
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.x509.oid import NameOID

TENANT = "00000000-0000-4000-8000-000000000001"
VAULT_SUFFIXES = ("vault.azure.net", "managedhsm.azure.net")
HOSTS = ("login.microsoftonline.com", "management.azure.com")
CALLS = threading.Lock()


def write_certificates():
    """Writes ca.pem and server.pem, a key and a certificate for every host that is served."""
    pem = serialization.Encoding.PEM
    now = datetime.datetime.now(datetime.timezone.utc)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake Azure")])
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name, public_key, is_ca):
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )

    names = [*HOSTS, *(f"*.{suffix}" for suffix in VAULT_SUFFIXES)]
    alternatives = x509.SubjectAlternativeName(map(x509.DNSName, names))
    ca = certificate("fake Azure", ca_key.public_key(), True).sign(ca_key, hashes.SHA256())
    server = (
        certificate("server", key.public_key(), False)
        .add_extension(alternatives, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (FOLDER / "ca.pem").write_bytes(ca.public_bytes(pem))
    (FOLDER / "server.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + server.public_bytes(pem)
    )


def encode(data):
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value, size=None):
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Refused(Exception):
    def __init__(self, status, code, message, inner=None):
        super().__init__(message)
        self.status = status
        self.error = {"code": code, "message": message}
        if inner:
            self.error["innererror"] = {"code": inner}


class Key:
    """A key in a vault, all of whose state is in a folder."""

    def __init__(self, host, name):
        self.host, self.name = host, name
        self.folder = FOLDER / host.split(".")[0] / name

    def settings(self, file):
        path = self.folder / file
        return json.loads(path.read_text()) if path.exists() else None

    def fault(self, operation):
        fault = self.settings(f"{operation}.fault")
        if fault == "hang":
            time.sleep(3600)
        if fault:
            raise Refused(fault["status"], **fault["error"])

    def version(self, version):
        versions = sorted(path.stem for path in self.folder.glob("*.pem"))
        version = version or (versions[-1] if versions else None)
        if version not in versions:
            text = f"A key with (name/id) {self.name}/{version or ''} was not found in this key vault."
            raise Refused(404, "KeyNotFound", text)
        pem = (self.folder / f"{version}.pem").read_bytes()
        return version, serialization.load_pem_private_key(pem, None)

    def show(self, version):
        self.fault("show")
        version, private = self.version(version)
        public = private.public_key().public_numbers()
        if isinstance(private, rsa.RSAPrivateKey):
            key = {"kty": "RSA", "n": number(public.n), "e": number(public.e)}
        else:
            size = (private.curve.key_size + 7) // 8
            curve = {256: "P-256", 384: "P-384", 521: "P-521"}[private.curve.key_size]
            if private.curve.name == "secp256k1":
                curve = "P-256K"
            key = {"kty": "EC", "crv": curve, "x": number(public.x, size), "y": number(public.y, size)}
        key["kid"] = f"https://{self.host}/keys/{self.name}/{version}"
        key["key_ops"] = ["sign", "verify"]
        attributes = {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}
        changes = self.settings("show.json") or {}
        if (self.folder / "rotate").exists():
            self.create()
        return {
            "key": {**key, **changes.get("key", {})},
            "attributes": {**attributes, **changes.get("attributes", {})},
        }

    def create(self):
        self.fault("create")
        self.folder.mkdir(parents=True, exist_ok=True)
        version = f"{len(list(self.folder.glob('*.pem'))) + 1:032x}"
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.folder / f"{version}.pem").write_bytes(pem)
        return version

    def sign(self, version, body):
        self.fault("sign")
        version, private = self.version(version)
        digest = decode(body["value"])
        if body["alg"] != "ES256" or len(digest) != 32:
            raise Refused(400, "BadParameter", f"Invalid length of 'value': {len(digest)} bytes")
        der = private.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        r, s = utils.decode_dss_signature(der)
        signature = encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        kid = f"https://{self.host}/keys/{self.name}/{version}"
        return {"kid": kid, "value": signature, **(self.settings("sign.json") or {})}


def key_vault(method, host, path, body):
    _, name, *rest = path.strip("/").split("/")
    key = Key(host, name)
    if rest == ["create"]:
        return key.show(key.create())
    if rest[-1:] == ["sign"]:
        return key.sign(rest[0] if len(rest) == 2 else None, body)
    return key.show(rest[0] if rest and rest[0] else None)


def azure(host, path, base):
    if path.endswith("/openid-configuration"):
        return {
            "token_endpoint": f"{base}/{TENANT}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/{TENANT}/oauth2/v2.0/authorize",
            "issuer": f"{base}/{TENANT}/v2.0",
        }
    if path.endswith("/token"):
        return {"token_type": "Bearer", "expires_in": 86000, "access_token": "token"}
    if path == "/subscriptions":
        return {"value": []}
    raise Refused(404, "NotFound", f"nothing is at {host}{path}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = None

    def do_CONNECT(self):
        self.host = self.path.split(":")[0]
        if self.host not in HOSTS and not self.host.endswith(VAULT_SUFFIXES):
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        self.connection = CONTEXT.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        path = urlsplit(self.path).path
        is_vault = self.host.endswith(VAULT_SUFFIXES)
        headers = {}
        if is_vault and "Authorization" not in self.headers:
            status, answer = 401, {"error": {"code": "Unauthorized", "message": "AKV10000: no token"}}
            headers["WWW-Authenticate"] = (
                f'Bearer authorization="https://login.microsoftonline.com/{TENANT}", '
                f'resource="https://{self.host.split(".", 1)[1]}"'
            )
        else:
            with CALLS, open(FOLDER / "calls", "a") as calls:
                calls.write(f"{self.command} {self.host} {path} {body}\n")
            try:
                if is_vault:
                    answer = key_vault(self.command, self.host, path, json.loads(body or "{}"))
                else:
                    answer = azure(self.host, path, f"https://{self.host}")
                status = 200
            except Refused as refused:
                status, answer = refused.status, {"error": refused.error}
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


scratch = tempfile.TemporaryDirectory(prefix="fake-azure-")
FOLDER = Path(scratch.name)
write_certificates()
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(FOLDER / "server.pem")
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, FOLDER, flush=True)
sys.stdin.read()
scratch.cleanup()
