//! `qkey pubkey`: the public half of a key.

use std::fs;

use crate::support::{
    qkey::Qkey,
    shell::{prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

#[test]
fn every_form_is_printed() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey alice.pem",
                "qkey pubkey alice.pem --format pem",
                "qkey pubkey alice.pem --format base64",
                "qkey pubkey alice.pem --format openssh",
                "qkey pubkey alice.pem --format der | od -An -tx1 -v | tr -d ' \\n'; echo",
                "qkey pubkey alice.pem --output json",
                "qkey pubkey alice.pem --output json --format der",
            ]
        ),
        str![[r#"
$ qkey pubkey alice.pem
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ
qTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
-----END PUBLIC KEY-----

$ qkey pubkey alice.pem --format pem
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ
qTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
-----END PUBLIC KEY-----

$ qkey pubkey alice.pem --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey alice.pem --format openssh
ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk=

$ qkey pubkey alice.pem --format der | od -An -tx1 -v | tr -d ' \n'; echo
3059301306072a8648ce3d020106082a8648ce3d0301070342000480a9894455ad5931078414e20b9ac8d6b6c12655c9a933461e5e0ef9845491ed5dadeccd12274856abbf50c9ccb3ef351cbf15c08cb279e0b01e42cb10ad9a69

$ qkey pubkey alice.pem --output json
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}

$ qkey pubkey alice.pem --output json --format der
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}


"#]].raw()
    );
}

#[test]
fn every_form_is_what_openssl_and_ssh_keygen_print() {
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
fn binary_output_has_no_newline_at_its_end() {
    let qkey = Qkey::new();
    assert_eq!(
        prints(&qkey, "qkey pubkey alice.pem --format der | wc -c").trim(),
        "91"
    );
}

#[test]
fn a_key_without_its_public_part_has_one_all_the_same() {
    let qkey = Qkey::new();
    prints(&qkey, "openssl ec -in alice.pem -no_public -out bare.pem");
    assert_eq!(
        prints(&qkey, "qkey pubkey bare.pem"),
        prints(&qkey, "qkey pubkey alice.pem")
    );
}

#[test]
fn what_is_no_p256_private_key_is_named() {
    let qkey = Qkey::new();
    prints(
        &qkey,
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out rsa.pem
         openssl ecparam -genkey -name secp384r1 -noout -out p384.pem
         openssl pkey -in alice.pem -pubout -out public.pem
         : > empty.pem; chmod 600 *.pem",
    );
    fs::create_dir(qkey.path("folder")).unwrap();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey missing.pem",
                "qkey pubkey missing.pem --output json",
                "qkey pubkey folder",
                "qkey pubkey empty.pem",
                "qkey pubkey public.pem",
                "qkey pubkey rsa.pem",
                "qkey pubkey p384.pem",
                "qkey pubkey",
                "qkey pubkey alice.pem --format jwk",
            ]
        ),
        str![[r#"
$ qkey pubkey missing.pem
--- exit 3
error: cannot read the key file missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path

$ qkey pubkey missing.pem --output json
--- exit 3
{"error":{"kind":"key","message":"cannot read the key file missing.pem","causes":["No such file or directory (os error 2)"],"hint":"check the path","exit_code":3}}

$ qkey pubkey folder
--- exit 3
error: folder is a directory
hint: specify a key file in this directory

$ qkey pubkey empty.pem
--- exit 3
error: cannot use the key file empty.pem
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`

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
--- exit 3
error: cannot use the key file p384.pem
  caused by: the private key is on the curve P-384 (secp384r1), not P-256
hint: create an ECDSA P-256 key: `qkey generate key.pem`

$ qkey pubkey
--- exit 2
error: the following required arguments were not provided:
  <SOURCE>

Usage: qkey pubkey <SOURCE>

For more information, try '--help'.

$ qkey pubkey alice.pem --format jwk
--- exit 2
error: invalid value 'jwk' for '--format <FORMAT>'
  [possible values: pem, der, base64, openssh]

For more information, try '--help'.


"#]].raw()
    );
}
