//! `qkey pubkey`: the public half of a key.

use crate::support::{qkey::Qkey, session::assert_session, shell::prints};
use snapbox::str;

#[test]
fn every_format_is_printed() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey alice.pem
$ qkey pubkey alice.pem --format pem
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ
qTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
-----END PUBLIC KEY-----
$ qkey pubkey alice.pem --format base64
[ALICE]
$ qkey pubkey alice.pem --format openssh
ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk=
$ qkey pubkey alice.pem --format der | od -An -tx1 -v | tr -d ' \n'; echo
3059301306072a8648ce3d020106082a8648ce3d0301070342000480a9894455ad5931078414e20b9ac8d6b6c12655c9a933461e5e0ef9845491ed5dadeccd12274856abbf50c9ccb3ef351cbf15c08cb279e0b01e42cb10ad9a69
$ qkey pubkey alice.pem --format fingerprint
SHA256:[ALICE]
$ qkey pubkey alice.pem --output json
$ qkey pubkey alice.pem --output json --format der
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}

"#]]
    );
}

#[test]
fn every_format_is_as_openssl_and_ssh_keygen_print_it() {
    let qkey = Qkey::new();
    for key in ["alice.pem", "bob.pem", "carol.pem"] {
        let same = |ours: &str, theirs: &str| {
            let ours = prints(&qkey, &ours.replace("KEY", key));
            assert_eq!(ours, prints(&qkey, &theirs.replace("KEY", key)), "{key}");
        };
        same("qkey pubkey KEY", "openssl pkey -in KEY -pubout");
        same(
            "qkey pubkey KEY --format der | sha256sum",
            "openssl pkey -in KEY -pubout -outform DER | sha256sum",
        );
        same(
            "qkey pubkey KEY --format base64",
            "openssl pkey -in KEY -pubout -outform DER | openssl base64 -A; echo",
        );
        same("qkey pubkey KEY --format openssh", "ssh-keygen -y -f KEY");
    }
}

#[test]
fn rejects_files_without_a_p256_private_key() {
    let qkey = Qkey::new();
    prints(
        &qkey,
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out rsa.pem
         openssl ecparam -genkey -name secp384r1 -noout -out p384.pem
         openssl pkey -in alice.pem -pubout -out public.pem
         chmod 600 *.pem",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey missing.pem
--- exit 3
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path
$ qkey pubkey public.pem
--- exit 3
error: cannot use the key file public.pem
  caused by: no private key in the file, only a public key
hint: the private key is in another file, often with the same name without .pub
$ qkey pubkey rsa.pem
--- exit 3
error: cannot use the key file rsa.pem
  caused by: the private key is RSA, not ECDSA P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey pubkey p384.pem
--- exit 3, hint as above
error: cannot use the key file p384.pem
  caused by: the private key is on the curve P-384 (secp384r1), not P-256
$ qkey pubkey
--- exit 2
error: the following required arguments were not provided:
  <SOURCE>

Usage: qkey pubkey <SOURCE>

For more information, try '--help'.
$ qkey pubkey alice.pem --format jwk
--- exit 2, hint as above
error: invalid value 'jwk' for '--format <FORMAT>'
  [possible values: pem, der, base64, openssh, fingerprint]

"#]]
    );
}
