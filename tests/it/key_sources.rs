//! The grammar of key sources, and key files of all sorts of places.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixListener,
    },
};

use crate::support::{
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, Qkey},
    session::{assert_cases, assert_session},
    shell::{self, prints},
};
use snapbox::str;

#[test]
fn unknown_scheme_is_never_a_file_name() {
    let qkey = Qkey::new();
    qkey.write("gpg:alice", ALICE);
    let error = qkey.run(["pubkey", "gpg:alice"]).stderr;
    for kind in qkey::KINDS {
        assert!(error.contains(kind.form), "{}: {error}", kind.form);
    }
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey gpg:alice
--- exit 2
error: "gpg:alice" is not a key source: unknown scheme "gpg"
hint: a key source is one of: [TABLE] written ./PATH
$ qkey sign --key 's3://bucket/alice.pem' x
--- exit 2, hint as above
error: "s3://bucket/alice.pem" is not a key source: unknown scheme "s3"
$ qkey generate 'tpm:handle'
--- exit 2, hint as above
error: "tpm:handle" is not a key source: unknown scheme "tpm"
$ qkey pubkey :alice.pem
--- exit 3
error: cannot read the key file :alice.pem
  caused by: No such file or directory (os error 2)
hint: check the path
$ qkey pubkey ./gpg:alice --format base64
$ qkey pubkey file:gpg:alice --format base64
[ALICE]

"#]],
        shell::without_table
    );
}

#[test]
fn path_is_literal_and_uri_is_decoded() {
    let qkey = Qkey::new();
    fs::create_dir(qkey.path("sub")).unwrap();
    for (file, source) in [
        ("plain.pem", "plain.pem"),
        ("plain.pem", "./plain.pem"),
        ("plain.pem", "sub/../plain.pem"),
        ("plain.pem", "file:plain.pem"),
        ("plain.pem", "file:./plain.pem"),
        ("plain.pem", "file:plain%2Epem"),
        ("plain.pem", "plain.pem?"),
        ("with blank.pem", "with blank.pem"),
        ("with blank.pem", "file:with%20blank.pem"),
        ("with blank.pem", "file:with blank.pem"),
        ("100%.pem", "100%.pem"),
        ("100%.pem", "file:100%25.pem"),
        ("a%20b.pem", "a%20b.pem"),
        ("a%20b.pem", "file:a%2520b.pem"),
        ("what?.pem", "file:what%3F.pem"),
        ("a&b=c.pem", "a&b=c.pem"),
        ("caf\u{e9}.pem", "caf\u{e9}.pem"),
        ("caf\u{e9}.pem", "file:caf%C3%A9.pem"),
        ("co:lon.pem", "./co:lon.pem"),
        ("co:lon.pem", "file:co%3Alon.pem"),
        ("-", "./-"),
        ("no-dot", "no-dot"),
    ] {
        let path = qkey.write(file, ALICE);
        let absolute = path.display().to_string();
        let absolute = absolute.replace('%', "%25").replace('?', "%3F");
        for source in [source, &format!("file:{absolute}")] {
            let run = qkey.run(["pubkey", "--format=base64", source]);
            assert_eq!((run.code, &*run.stderr), (0, ""), "{source}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn malformed_uri_is_an_error() {
    assert_session!(
        Qkey::new(),
        str![[r#"
$ qkey pubkey 'file:100%.pem'
--- exit 2
error: "file:100%.pem" is not a key source: a `%` without two hex digits after it (write `%25`)
$ qkey pubkey 'file:a%zz.pem'
--- exit 2
error: "file:a%zz.pem" is not a key source: a `%` without two hex digits after it (write `%25`)
$ qkey pubkey 'file:a%'
--- exit 2
error: "file:a%" is not a key source: a `%` without two hex digits after it (write `%25`)
$ qkey pubkey 'file:%FF.pem'
--- exit 2
error: "file:%FF.pem" is not a key source: not UTF-8 after decoding
$ qkey pubkey 'file:?passphrase-env=X'
--- exit 2
error: "file:?passphrase-env=X" is not a key source: nothing before the attributes
hint: a key source is one of: [TABLE] written ./PATH
$ qkey pubkey '?passphrase-env=X'
--- exit 2, hint as above
error: "?passphrase-env=X" is not a key source: nothing before the attributes
$ qkey pubkey 'what?.pem'
--- exit 2
error: "what?…" is not a key source: an attribute without a value
hint: file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…
$ qkey pubkey 'alice.pem?format=pem'
--- exit 2, hint as above
error: "alice.pem?format=…" is not a key source: unknown attribute "format"

"#]],
        shell::without_table
    );
}

#[test]
fn stdin_holds_one_key() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    mock.add_key("lock", "", ALICE_PUBLIC);
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey - --format base64 < alice.pem
$ qkey pubkey file:- --format base64 < alice.pem
$ { head -c 7 alice.pem; sleep .1; tail -c +8 alice.pem; } | qkey pubkey - --format base64
[ALICE]
$ qkey replace -k 1 --old-key - --new-key - < alice.pem
$ qkey unlock --id 1 --key - --key file:- < alice.pem
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files
$ qkey pubkey - < /dev/null
$ qkey pubkey - <&-
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey replace -k lock --old-key alice.pem --new-key - < bob.pem
Replaced key 1 ("lock").
  was SHA256:[ALICE]
  now SHA256:[BOB]

"#]]
    );
}

#[test]
fn key_is_read_from_fifo_and_process_substitution() {
    assert_session!(
        Qkey::new(),
        str![[r#"
$ mkfifo fifo; cat alice.pem > fifo & qkey pubkey fifo --format base64
$ bash -c 'qkey pubkey <(cat alice.pem) --format base64'
$ qkey pubkey /dev/stdin --format base64 < alice.pem
$ qkey pubkey /dev/fd/3 --format base64 3< alice.pem
[ALICE]

"#]]
    );
}

#[test]
fn files_that_are_not_key_files_are_rejected_at_once() {
    let qkey = Qkey::new();
    let _listener = UnixListener::bind(qkey.path("socket")).unwrap();
    fs::write(qkey.path("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    fs::write(qkey.path("binary"), [0xde, 0xad, 0xbe, 0xef]).unwrap();
    prints(&qkey, "chmod 600 large binary");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey /dev/zero
--- exit 3
error: /dev/zero is not a key file: larger than 1 MiB
hint: specify the file with the private key
$ qkey pubkey /dev/null
--- exit 3
error: cannot use the key file /dev/null
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`
$ qkey pubkey large
--- exit 3
error: large is not a key file: larger than 1 MiB
hint: specify the file with the private key
$ qkey pubkey binary
--- exit 3
error: cannot use the key file binary
  caused by: neither PEM, DER, Base64 of DER, nor an OpenSSH key
hint: use an ECDSA P-256 key file from openssl, ssh-keygen, or `qkey generate key.pem`
$ qkey pubkey socket
--- exit 3
error: cannot read the key file socket
  caused by: No such device or address (os error 6)
$ qkey pubkey .
--- exit 3
error: . is a directory
hint: specify a key file in this directory
$ qkey pubkey alice.pem/
--- exit 3
error: cannot read the key file alice.pem/
  caused by: Not a directory (os error 20)
$ qkey pubkey alice.pem/x
--- exit 3
error: cannot read the key file alice.pem/x
  caused by: Not a directory (os error 20)
$ ln -s loop loop; qkey pubkey loop
--- exit 3
error: cannot read the key file loop
  caused by: Too many levels of symbolic links (os error 40)

"#]]
    );
}

#[test]
fn key_file_that_others_can_replace_is_one_warning() {
    let qkey = Qkey::new();
    let key = qkey.write("shared/key.pem", ALICE);
    let folder = qkey.path("shared");
    let run = |mode| {
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        // The key is opened twice.
        qkey.run([
            "verify",
            "--key=shared/key.pem",
            "--signature=AAAA",
            "challenge",
        ])
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("warning: ").map(str::to_owned))
        .collect::<Vec<String>>()
    };
    for mode in [0o700, 0o755, 0o1777] {
        assert_eq!(run(mode), [""; 0], "{mode:o}");
    }
    let expected = "shared/key.pem can be replaced: shared can be written by others (mode 0777); fix with: chmod go-w shared";
    assert_eq!(run(0o777), [expected]);
    symlink("shared/key.pem", qkey.path("link.pem")).unwrap();
    let link = qkey.run(["pubkey", "link.pem"]).stderr;
    assert!(
        link.starts_with("warning: link.pem can be replaced: [DIR]/shared can be"),
        "{link}"
    );

    // Only root can give a file away; for others, it stays theirs.
    let expected: &[&str] = match chown(&key, Some(1), None) {
        Ok(()) => &[
            "shared/key.pem belongs to another user (uid 1), who can change it; make a copy that you own, and use that",
        ],
        Err(_) => &[],
    };
    assert_eq!(run(0o700), expected);
}

#[test]
fn key_file_that_others_can_read_is_a_warning() {
    let qkey = Qkey::new();
    let key = qkey.write("my key.pem", ALICE);
    for (mode, warned) in [
        (0o600, false),
        (0o400, false),
        (0o640, true),
        (0o604, true),
        (0o620, true),
        (0o666, true),
        (0o611, false),
    ] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let run = qkey.run(["pubkey", "my key.pem"]);
        assert_eq!(
            (run.code, run.stderr.contains("warning")),
            (0, warned),
            "{mode:o}: {}",
            run.stderr
        );
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey 'my key.pem' --format base64
[ALICE]
--- exit 0
warning: my key.pem can be read or written by others (mode 0644); fix with: chmod 600 'my key.pem'
$ qkey pubkey 'my key.pem' --format base64 --output json
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}
--- exit 0
{"log":{"level":"warning","message":"my key.pem can be read or written by others (mode 0644); fix with: chmod 600 'my key.pem'"}}
$ qkey pubkey 'my key.pem' --format base64 -q
[ALICE]

"#]]
    );
}

#[test]
fn no_error_about_a_source_shows_a_secret() {
    let qkey = Qkey::new()
        .env("QKEY_HOST", "127.0.0.1")
        .env("QKEY_PORT", "9");
    // An odd number, so that each command comes with each of them.
    let mut outputs = ["--output=text", "--output=json", "--output=text"];
    // The digits of the secret are before and after a space.
    for source in [
        "pkcs11:token=T;object=o&pin-value=8361 8361",
        "pkcs11:token=T;object=o?module-path=/m?pin-value=8361 8361",
        "pkcs11:token=T;object=o? pin-value=8361 8361",
        "pkcs11:token=T;object=o?pin-value=8361&8361=8361",
        "pkcs11:token=T;object=o;PIN-VALUE=8361 8361",
        "pkcs11:token=T;object=o;pin%2Dvalue=8361",
        "pkcs11:token=T;object=o%3Fpin-value%3D8361%208361",
        "pkcs11:token=T;object=o;pin-value:8361 8361",
        "pkcs11:token=T;object=o?pin-value:8361 8361",
        "pkcs11:token=T;object=o?pinvalue=8361",
        "pkcs11:token=T;object=o?pin-value='8361\"8361",
        "pkcs11:token=T;object=o?pin=8361&pin-value=8361",
        " pkcs11:token=T;object=o?pin-value=8361 8361",
        " pkcs11:token=T;object=o;pin-value=8361 8361",
        "pkcs:token=T;pin-value=8361",
        "pkcs11.token=T;pin-value=8361",
        "pin-value=8361",
        "k.pem?passphrase=8361",
        "k.pem;password=8361",
        "k.pem?pass%77ord=8361",
        "k.pem?passphrase-command=echo 8361 && echo 8361&8361=8361",
        "nosuch:k?secret=8361",
        "awskms:///alias/a?endpoint-url=http://u:8361@127.0.0.1:1/&region=r",
        "https://u:8361@127.0.0.1/key",
        "openssl:pkcs11:object=o%3Fpin-value=8361?provider=nosuch",
    ] {
        let unexpected = format!("--via={source}");
        let value = format!("--key={source}");
        let new = format!("--new-key={source}");
        for args in [
            &["pubkey", source][..],
            &["-vv", "sign", &value, "challenge"],
            &["-vv", "generate", source, "--format=sec1", "--encrypt"],
            &["pubkey", "alice.pem", source],
            &["keys", "show", source],
            &["add", "--name", source, &value],
            &["replace", "-k", source, "--old-key", source, &new],
            &["unlock", "--id", source],
            &["sign", "--key=alice.pem", "--format", source],
            &["--cluster", source, "keys"],
            &[&unexpected, "keys"],
            &[source],
        ] {
            outputs.rotate_left(1);
            let args = [args, &[outputs[0], "--no-input"]].concat();
            let run = qkey.run(&args);
            assert!(!run.stdout.contains("8361"), "{args:?}: {run:?}");
            assert!(!run.stderr.contains("8361"), "{args:?}: {run:?}");
        }
    }
}

#[test]
fn unlock_finds_the_matching_key_in_any_order() {
    for keys in [
        "--key alice.pem --key bob.pem --key none.pem",
        "--key none.pem --key bob.pem --key alice.pem",
    ] {
        let mock = Mock::with_four_locked(ALICE_PUBLIC);
        let run = shell::run(
            &Qkey::with_mock(&mock),
            &format!("qkey unlock --id 1 {keys}"),
        );
        assert_eq!((run.code, &*run.stderr), (0, ""), "{keys}");
        assert_eq!(mock.lock_key(1), None);
    }
}

#[test]
fn malformed_uris_fail_before_any_program_runs() {
    let qkey = Qkey::new().env("PATH", "/nowhere");
    assert_cases!(
        str![[r#"
==== awskms:alias/bob
--- exit 2
error: "awskms:alias/bob" is not a key source: awskms: must be followed by three slashes (for an endpoint, use the attribute endpoint-url)
hint: write awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
==== awskms://localhost:4566/alias/bob
--- exit 2, hint as above
error: "awskms://localhost:4566/alias/bob" is not a key source: awskms: must be followed by three slashes (for an endpoint, use the attribute endpoint-url)
==== awskms:///bob smith
--- exit 2, hint as above
error: "awskms:///bob smith" is not a key source: it is not a key id or an alias
==== awskms:///arn:aws:s3:::bucket
--- exit 2, hint as above
error: "awskms:///arn:aws:s3:::bucket" is not a key source: it is not the ARN of a KMS key
==== awskms:///arn:aws:kms:eu-west-1:111122223333:key/1?region=eu-west-2
--- exit 2, hint as above
error: "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1?region=eu-west-2" is not a key source: the attribute region differs from the region in the ARN
==== awskms:///alias/bob?regoin=eu-west-1
--- exit 2
error: "awskms:///alias/bob?regoin=…" is not a key source: unknown attribute "regoin"
hint: did you mean "region"? awskms takes region, profile, endpoint-url; in a name, write `?` as %3F: awskms:…%3F…
==== azurekms:v/k
--- exit 2
error: "azurekms:v/k" is not a key source: azurekms: must be followed by two slashes
hint: write azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION, where VAULT is a name, or a host such as NAME.vault.azure.net or NAME.managedhsm.azure.net
==== azurekms://v
--- exit 2, hint as above
error: "azurekms://v" is not a key source: it must name a vault and a key
==== azurekms://v.vault.azure.net/keys/k/1
--- exit 2, hint as above
error: "azurekms://v.vault.azure.net/keys/k/1" is not a key source: it must name a vault and a key
==== azurekms://v:443/k
--- exit 2, hint as above
error: "azurekms://v:443/k" is not a key source: it contains an invalid vault, key or version
==== azurekms://v/k?version=1
--- exit 2
error: "azurekms://v/k?version=…" is not a key source: unknown attribute "version"
hint: azurekms takes protection; in a name, write `?` as %3F: azurekms:…%3F…
==== gcpkms:projects/p
--- exit 2
error: "gcpkms:projects/p" is not a key source: gcpkms: must be followed by two slashes
hint: write gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V; the version is optional if exactly one is enabled
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1
--- exit 2, hint as above
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/1" is not a key source: it does not name a key
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/one
--- exit 2, hint as above
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/one" is not a key source: it contains an invalid name or version
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?protection-level=external
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?protection-level=external" is not a key source: unknown protection level "external"
hint: write software or hsm
==== gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?account=x
--- exit 2
error: "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k?account=…" is not a key source: unknown attribute "account"
hint: gcpkms takes configuration, impersonate-service-account, protection-level; in a name, write `?` as %3F: gcpkms:…%3F…
==== hashivault:lock
--- exit 2
error: "hashivault:lock" is not a key source: hashivault: must be followed by two slashes
hint: write hashivault://KEY, with ?mount=PATH if the engine is not at transit, and key-version=N if it is not the latest version
==== hashivault://transit/lock
--- exit 2, hint as above
error: "hashivault://transit/lock" is not a key source: it contains an invalid key name
==== hashivault://lock?mount=-x
--- exit 2, hint as above
error: "hashivault://lock?mount=-x" is not a key source: it contains an invalid mount
==== hashivault://lock?key-version=latest
--- exit 2, hint as above
error: "hashivault://lock?key-version=latest" is not a key source: key-version must be a positive number
==== hashivault://lock?tool=openbao
--- exit 2
error: "hashivault://lock?tool=openbao" is not a key source: unknown tool
hint: write tool=vault or bao
==== hashivault://lock?namespace=a
--- exit 2
error: "hashivault://lock?namespace=…" is not a key source: unknown attribute "namespace"
hint: hashivault takes mount, key-version, tool; in a name, write `?` as %3F: hashivault:…%3F…
==== openssl:
--- exit 2
error: "openssl:" is not a key source: nothing before the attributes
hint: a key source is one of: [TABLE] written ./PATH
==== openssl:-
--- exit 2
error: "openssl:-" is not a key source: openssl cannot read the key from stdin
hint: name a file or a URI
==== openssl:pkcs11:object=o%3Fpin-value=1234?provider=pkcs11
--- exit 2
error: "openssl:pkcs11:object=o%3Fpin-value=…" is not a key source: openssl would take the PIN as an argument, which every user can read
hint: remove pin-value from the URI, and add the attribute passphrase-file=PATH
==== openssl:alice.pem?provider=
--- exit 2
error: "openssl:alice.pem?provider=" is not a key source: it contains an empty provider name
hint: separate providers with one comma, as in ?provider=legacy,default
==== openssl:alice.pem?provider=legacy,,default
--- exit 2, hint as above
error: "openssl:alice.pem?provider=legacy,,default" is not a key source: it contains an empty provider name
==== openssl:alice.pem?providers=legacy
--- exit 2
error: "openssl:alice.pem?providers=…" is not a key source: unknown attribute "providers"
hint: did you mean "provider"? openssl takes provider, engine, passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: openssl:…%3F…
==== openssl:alice.pem?passphrase=x
--- exit 2
error: "openssl:alice.pem?passphrase=…" is not a key source: unknown attribute "passphrase"
hint: did you mean "passphrase-fd"? openssl takes provider, engine, passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: openssl:…%3F…

"#]],
        |source| { shell::without_table(&qkey.run(["pubkey", source]).transcript()) }
    );
}
