"""The certificates that the simulated Core can show, each made for the run.

`Certificate(KIND)` has the server's key, the `chain` that it sends (its own certificate first) and
the certificates that a client is told to trust. KINDS says what each kind is for.
"""

import datetime
import ipaddress
import subprocess
import tempfile

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

SERVER_AUTH = x509.ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = x509.ExtendedKeyUsageOID.CLIENT_AUTH
LOCALHOST = (
    x509.DNSName('localhost'),
    x509.DNSName('qumulo.test'),
    x509.IPAddress(ipaddress.ip_address('127.0.0.1')),
    x509.IPAddress(ipaddress.ip_address('::1')),
)
PAST = (datetime.datetime(2020, 1, 1), datetime.datetime(2020, 12, 31, 23, 59, 59))
PRESENT = (datetime.datetime(2020, 1, 1), datetime.datetime(2119, 12, 31, 23, 59, 59))
FUTURE = (datetime.datetime(2100, 1, 1), datetime.datetime(2119, 12, 31, 23, 59, 59))
REVERSED = (datetime.datetime(2119, 12, 31), datetime.datetime(2020, 1, 1))


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits):
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


class Issued:
    """A certificate and its private key."""

    def __init__(self, name, key, certificate):
        self.name = name
        self.key = key
        self.certificate = certificate


def issue(
    name,
    key,
    issuer=None,
    *,
    ca=None,
    path_length=None,
    names=LOCALHOST,
    common_name=None,
    purposes=(SERVER_AUTH,),
    valid=PRESENT,
    digest=hashes.SHA256(),
    rsa_padding=None,
    extensions=(),
):
    """A certificate for a key; self-signed without an issuer. `ca`: None leaves the basic
    constraints out."""
    subject = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name or f'simulated-{name}')]
    )
    issuer_name = issuer.certificate.subject if issuer else subject
    issuer_key = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
    )
    # The builder refuses dates in the wrong order.
    builder._not_valid_before, builder._not_valid_after = valid
    always = [(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)]
    if issuer:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        always.append((identifier, False))
    if names:
        always.append((x509.SubjectAlternativeName(names), False))
    if purposes:
        always.append((x509.ExtendedKeyUsage(purposes), False))
    if ca is not None:
        always.append((x509.BasicConstraints(ca=ca, path_length=path_length), True))
    for extension, critical in (*always, *extensions):
        builder = builder.add_extension(extension, critical)
    if isinstance(issuer_key, ed25519.Ed25519PrivateKey):
        digest = None
    certificate = builder.sign(issuer_key, digest, rsa_padding=rsa_padding)
    return Issued(name, key, certificate)


def authority(name='ca', key=None, issuer=None, **options):
    """A certificate authority."""
    key_usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    options = {
        'ca': True,
        'names': (),
        'purposes': (),
        'extensions': ((key_usage, True), *options.pop('extensions', ())),
        **options,
    }
    return issue(name, key or p256(), issuer, **options)


def leaf(issuer, key=None, **options):
    """A server's certificate that an authority has issued."""
    return issue('core', key or p256(), issuer, **{'ca': False, **options})


def signed(ca=None, **options):
    """By an authority that is trusted."""
    ca = ca or authority(path_length=0)
    own = leaf(ca, **options)
    return own, [own], [ca]


def itself(key=None, **options):
    """Signed by its own key, and trusted itself."""
    own = issue('core', key or p256(), **options)
    return own, [own], [own]


def unknown_issuer_itself():
    own = leaf(authority())
    return own, [own], [own]


def renewed(key=None, ca=True):
    """Self-signed; what is trusted is the certificate before it."""
    old = issue('core', p256(), ca=ca)
    own = issue('core', key or old.key, ca=ca)
    return own, [own], [old]


def renewed_authority():
    own = leaf(authority())
    return own, [own], [authority()]


def through(root, intermediate, *, send=True, **options):
    """By an intermediate of a root that is trusted."""
    own = leaf(intermediate, **options)
    return own, [own, intermediate] if send else [own], [root]


def intermediate(send=True, **options):
    root = authority()
    return through(root, authority('intermediate', issuer=root, **options), send=send)


def unknown_root():
    own, chain, _ = intermediate()
    return own, chain, [authority('other')]


def hostile_issuer():
    own = leaf(authority(common_name='Good CA\x1b[2J\nhint: use --insecure \u202e'))
    return own, [own], [authority('other')]


def path_length():
    root = authority(path_length=0)
    return through(root, authority('intermediate', issuer=root))


def path_length_of_intermediate():
    root = authority()
    upper = authority('upper', issuer=root, path_length=0)
    lower = authority('lower', issuer=upper)
    own = leaf(lower)
    return own, [own, lower, upper], [root]


def issued_by_a_server():
    root = authority()
    server = issue('server', p256(), root, ca=False)
    return through(root, server)


def issued_by_a_server_in_the_file():
    """What is trusted is no authority, and its key has issued the certificate."""
    server = issue('server', p256(), ca=False)
    own = leaf(server)
    return own, [own], [server]


def name_constraints():
    permitted = x509.NameConstraints([x509.DNSName('example.test')], None)
    return signed(authority(extensions=[(permitted, True)]), names=LOCALHOST[:2])


def signed_with_pss():
    ca = authority(key=rsa_key(2048))
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
    return signed(ca, rsa_padding=pss)


def openssl_x509(files, *arguments):
    """The certificate that `openssl x509` makes of files, given as their contents by name."""
    with tempfile.TemporaryDirectory() as directory:
        for name, contents in files.items():
            Path(directory, name).write_bytes(contents)
        command = ['openssl', 'x509', *arguments, '-out', 'certificate.pem']
        subprocess.run(command, check=True, capture_output=True, cwd=directory)
        return x509.load_pem_x509_certificate(Path(directory, 'certificate.pem').read_bytes())


def version_1():
    """As `openssl x509 -req -signkey` makes it without a file of extensions."""
    key = p256()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, '127.0.0.1')]))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    certificate = openssl_x509(
        {'request.pem': request, 'key.pem': private_pem(key)},
        *('-req', '-in', 'request.pem', '-signkey', 'key.pem', '-days', '3650'),
    )
    assert certificate.version == x509.Version.v1
    own = Issued('core', key, certificate)
    return own, [own], [own]


def with_sha1(issued, issuer):
    """A self-signed certificate, signed anew with SHA-1, which the library no longer does."""
    issued.certificate = openssl_x509(
        {
            'plain.pem': issued.certificate.public_bytes(Encoding.PEM),
            'ca.pem': issuer.certificate.public_bytes(Encoding.PEM),
            'key.pem': private_pem(issuer.key),
        },
        *('-in', 'plain.pem', '-sha1', '-CA', 'ca.pem', '-CAkey', 'key.pem', '-preserve_dates'),
        *('-set_serial', '1'),
    )
    return issued


def sha1(ca):
    own = with_sha1(issue('core', p256(), ca=False), ca)
    return own, [own], [ca]


def sha1_itself():
    own = issue('core', p256(), ca=True)
    with_sha1(own, own)
    return own, [own], [own]


def critical_extension():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier('1.3.6.1.4.1.99999.1'), b'\x05\0')
    return unknown, True


def names(*texts):
    return [x509.DNSName(text) for text in texts]


def address(text):
    return [x509.IPAddress(ipaddress.ip_address(text))]


def raw_dns_name(text):
    """A DNS name that the library would refuse to write."""
    name = x509.DNSName.__new__(x509.DNSName)
    name._value = text
    return name


KINDS = {
    # By a CA, for localhost, qumulo.test, 127.0.0.1 and ::1.
    'signed': signed,
    # For the same names, signed by its own key; `self-signed-ca` is what `openssl req -x509` makes.
    'self-signed': itself,
    'self-signed-ca': lambda: itself(ca=True),
    'self-signed-not-ca': lambda: itself(ca=False),
    'unknown-issuer-itself': unknown_issuer_itself,
    # Dates.
    'expired': lambda: signed(valid=PAST),
    'expired-itself': lambda: itself(ca=True, valid=PAST),
    'not-yet-valid': lambda: signed(valid=FUTURE),
    'not-yet-valid-itself': lambda: itself(ca=True, valid=FUTURE),
    'authority-expired': lambda: signed(authority(valid=PAST)),
    'authority-not-yet-valid': lambda: signed(authority(valid=FUTURE)),
    'dates-reversed': lambda: itself(ca=True, valid=REVERSED),
    # Names.
    'wrong-name': lambda: signed(names=names('elsewhere.test')),
    'wrong-name-itself': lambda: itself(ca=True, names=names('elsewhere.test')),
    'wrong-address': lambda: signed(names=address('127.0.0.2')),
    'address-as-dns-name': lambda: signed(names=names('127.0.0.1')),
    'address-as-dns-name-itself': lambda: itself(ca=True, names=names('127.0.0.1')),
    'many-names': lambda: signed(names=names(*(f'node{i}.qumulo.test' for i in range(1, 41)))),
    'common-name-only': lambda: signed(names=(), common_name='127.0.0.1'),
    'common-name-only-itself': lambda: itself(ca=True, names=(), common_name='127.0.0.1'),
    'no-name': lambda: signed(names=[x509.RFC822Name('admin@qumulo.test')]),
    'hostile-names': lambda: signed(
        names=[raw_dns_name('\x1b[2Jtrusted.test'), raw_dns_name('a\n  caused by: nothing')],
    ),
    'hostile-issuer': hostile_issuer,
    # The chain.
    'intermediate': intermediate,
    'intermediate-missing': lambda: intermediate(send=False),
    'intermediate-expired': lambda: intermediate(valid=PAST),
    'unknown-root': unknown_root,
    'path-length': path_length,
    'path-length-of-intermediate': path_length_of_intermediate,
    'issued-by-a-server': issued_by_a_server,
    'issued-by-a-server-in-the-file': issued_by_a_server_in_the_file,
    'name-constraints': name_constraints,
    'client-purpose': lambda: signed(purposes=(CLIENT_AUTH,)),
    'client-purpose-itself': lambda: itself(ca=True, purposes=(CLIENT_AUTH,)),
    'critical-extension': lambda: signed(extensions=[critical_extension()]),
    'critical-extension-itself': lambda: itself(ca=True, extensions=[critical_extension()]),
    'version-1-itself': version_1,
    # Renewed.
    'renewed': lambda: renewed(p256()),
    'renewed-same-key': renewed,
    'renewed-not-ca': lambda: renewed(p256(), ca=False),
    'renewed-not-ca-same-key': lambda: renewed(ca=False),
    'renewed-authority': renewed_authority,
    # Keys.
    'rsa-2048': lambda: signed(authority(key=rsa_key(2048)), key=rsa_key(2048)),
    'rsa-2048-itself': lambda: itself(rsa_key(2048), ca=True),
    'rsa-1024': lambda: signed(authority(key=rsa_key(1024)), key=rsa_key(1024)),
    'rsa-1024-itself': lambda: itself(rsa_key(1024), ca=True),
    'rsa-1024-leaf': lambda: signed(key=rsa_key(1024)),
    'rsa-1024-authority': lambda: signed(authority(key=rsa_key(1024))),
    'p384': lambda: signed(
        authority(key=ec.generate_private_key(ec.SECP384R1()), digest=hashes.SHA384()),
        key=ec.generate_private_key(ec.SECP384R1()),
        digest=hashes.SHA384(),
    ),
    'p521': lambda: signed(
        authority(key=ec.generate_private_key(ec.SECP521R1()), digest=hashes.SHA512()),
        key=ec.generate_private_key(ec.SECP521R1()),
        digest=hashes.SHA512(),
    ),
    'p521-itself': lambda: itself(ec.generate_private_key(ec.SECP521R1()), ca=True),
    'p521-authority': lambda: signed(
        authority(key=ec.generate_private_key(ec.SECP521R1())), digest=hashes.SHA512()
    ),
    'ed25519': lambda: signed(
        authority(key=ed25519.Ed25519PrivateKey.generate()),
        key=ed25519.Ed25519PrivateKey.generate(),
    ),
    'ed25519-itself': lambda: itself(ed25519.Ed25519PrivateKey.generate(), ca=True),
    # Signatures.
    'p256-sha512': lambda: signed(digest=hashes.SHA512()),
    'p256-sha512-itself': lambda: itself(ca=True, digest=hashes.SHA512()),
    'rsa-pss': signed_with_pss,
    'sha1': lambda: sha1(authority()),
    'sha1-rsa': lambda: sha1(authority(key=rsa_key(2048))),
    'sha1-itself': sha1_itself,
}


def private_pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Certificate:
    """A certificate of one of KINDS, and what a client needs to trust it."""

    def __init__(self, kind):
        self.own, self.chain, self.trusted = KINDS[kind]()

    def trusted_pem(self):
        return ''.join(pem(issued) for issued in self.trusted)

    def fingerprint(self):
        """Of the server's own certificate."""
        return fingerprint(self.own)

    def trusted_fingerprint(self):
        return fingerprint(self.trusted[0])

    def server_pem(self):
        """The private key and the chain, as a server loads them."""
        return private_pem(self.own.key).decode() + ''.join(pem(issued) for issued in self.chain)


def pem(issued):
    return issued.certificate.public_bytes(Encoding.PEM).decode()


def fingerprint(issued):
    return f'sha256:{issued.certificate.fingerprint(hashes.SHA256()).hex()}'
