//! The grammar of key sources, and key files of all sorts of places.

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixListener,
    },
};

use crate::support::{
    mock::Mock,
    qkey::{ALICE, BOB, Qkey, public_key_base64},
    shell::{self, prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

#[test]
fn a_scheme_that_is_unknown_is_never_taken_for_a_file_name() {
    let qkey = Qkey::new();
    qkey.write("gpg:alice", ALICE);
    assert_data_eq!(
        shell::without_table(&transcript(
            &qkey,
            [
                "qkey pubkey gpg:alice",
                "qkey pubkey gpg:alice --output json",
                "qkey sign --key 's3://bucket/alice.pem' x",
                "qkey generate 'tpm:handle'",
                "qkey verify --key 'FILE:alice.pem' --signature AA x",
                "qkey pubkey 'https://example.com/key.pem'",
                "qkey pubkey C:/keys/alice.pem",
                "qkey pubkey :alice.pem",
                "qkey pubkey ./gpg:alice --format base64",
                "qkey pubkey file:gpg:alice --format base64",
            ]
        )),
        str![[r#"
$ qkey pubkey gpg:alice
--- exit 2
error: "gpg:alice" is not a key source: unknown scheme "gpg"
hint: a key source is one of: [TABLE] written ./PATH

$ qkey pubkey gpg:alice --output json
--- exit 2
{"error":{"kind":"usage","message":"\"gpg:alice\" is not a key source: unknown scheme \"gpg\"","causes":[],"hint":"a key source is one of: [TABLE] written ./PATH","exit_code":2}}

$ qkey sign --key 's3://bucket/alice.pem' x
--- exit 2
error: "s3://bucket/alice.pem" is not a key source: unknown scheme "s3"
hint: a key source is one of: [TABLE] written ./PATH

$ qkey generate 'tpm:handle'
--- exit 2
error: "tpm:handle" is not a key source: unknown scheme "tpm"
hint: a key source is one of: [TABLE] written ./PATH

$ qkey verify --key 'FILE:alice.pem' --signature AA x
--- exit 4
error: not an ECDSA P-256 signature
  caused by: not an ASN.1 DER ECDSA signature
hint: give Base64 or hexadecimal, or a file with either, with DER, or with 64 raw bytes

$ qkey pubkey 'https://example.com/key.pem'
--- exit 2
error: "https://example.com/key.pem" is not a key source: unknown scheme "https"
hint: a key source is one of: [TABLE] written ./PATH

$ qkey pubkey C:/keys/alice.pem
--- exit 2
error: "C:/keys/alice.pem" is not a key source: unknown scheme "C"
hint: a key source is one of: [TABLE] written ./PATH

$ qkey pubkey :alice.pem
--- exit 3
error: cannot read the key file :alice.pem
  caused by: No such file or directory (os error 2)
hint: check the path

$ qkey pubkey ./gpg:alice --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey file:gpg:alice --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==


"#]].raw()
    );
}

#[test]
fn the_error_of_an_unknown_scheme_lists_every_form_of_a_key_source() {
    let run = Qkey::new().run(["pubkey", "gpg:alice"]);
    for kind in qkey::KINDS {
        assert!(
            run.stderr.contains(kind.form),
            "{}: {}",
            kind.form,
            run.stderr
        );
    }
}

#[test]
fn a_path_is_taken_as_it_is_and_a_uri_is_decoded() {
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
        let run = qkey.run(["pubkey", "--format=base64", source]);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{source}");
        // An absolute path is the same file.
        let run = qkey.run([
            "pubkey",
            &format!(
                "file:{}",
                path.display()
                    .to_string()
                    .replace('%', "%25")
                    .replace('?', "%3F")
            ),
        ]);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{source}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_uri_that_does_not_decode_is_an_error() {
    assert_data_eq!(
        shell::without_table(&transcript(
            &Qkey::new(),
            [
                "qkey pubkey 'file:100%.pem'",
                "qkey pubkey 'file:a%zz.pem'",
                "qkey pubkey 'file:a%'",
                "qkey pubkey 'file:%FF.pem'",
                "qkey pubkey 'file:?passphrase-env=X'",
                "qkey pubkey '?passphrase-env=X'",
                "qkey pubkey 'what?.pem'",
                "qkey pubkey 'alice.pem?format=pem'",
            ]
        )),
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
--- exit 2
error: "?passphrase-env=X" is not a key source: nothing before the attributes
hint: a key source is one of: [TABLE] written ./PATH

$ qkey pubkey 'what?.pem'
--- exit 2
error: "what?…" is not a key source: an attribute without a value
hint: file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

$ qkey pubkey 'alice.pem?format=pem'
--- exit 2
error: "alice.pem?format=…" is not a key source: unknown attribute "format"
hint: file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…


"#]].raw()
    );
}

#[test]
fn stdin_gives_one_key() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let expected = qkey.run(["pubkey", "alice.pem"]).stdout;
    for source in ["-", "file:-"] {
        let run = qkey.run_with_stdin(["pubkey", source], ALICE.as_bytes());
        assert_eq!(
            (run.code, &*run.stdout),
            (0, &*expected),
            "{source}: {}",
            run.stderr
        );
    }
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey replace -k 1 --old-key - --new-key - < alice.pem",
                "qkey unlock --id 1 --key - --key file:- < alice.pem",
                "qkey pubkey - < /dev/null",
                "qkey pubkey - <&-",
            ]
        ),
        str![[r#"
$ qkey replace -k 1 --old-key - --new-key - < alice.pem
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files

$ qkey unlock --id 1 --key - --key file:- < alice.pem
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files

$ qkey pubkey - < /dev/null
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`

$ qkey pubkey - <&-
--- exit 3
error: cannot use the key file -
  caused by: the file is empty
hint: create an ECDSA P-256 key: `qkey generate key.pem`


"#]]
        .raw()
    );
}

#[test]
fn a_fifo_or_a_process_substitution_gives_a_key() {
    let qkey = Qkey::new();
    let expected = prints(&qkey, "qkey pubkey alice.pem");
    let fifo = prints(
        &qkey,
        "mkfifo fifo; cat alice.pem > fifo & qkey pubkey fifo",
    );
    assert_eq!(fifo, expected);
    assert_eq!(
        prints(&qkey, "bash -c 'qkey pubkey <(cat alice.pem)'"),
        expected
    );
    assert_eq!(
        prints(&qkey, "qkey pubkey /dev/stdin < alice.pem"),
        expected
    );
    assert_eq!(
        prints(&qkey, "qkey pubkey /dev/fd/3 3< alice.pem"),
        expected
    );
}

#[test]
fn a_file_that_is_no_key_file_ends_soon() {
    let qkey = Qkey::new();
    let _listener = UnixListener::bind(qkey.path("socket")).unwrap();
    fs::write(qkey.path("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    fs::write(qkey.path("binary"), [0xde, 0xad, 0xbe, 0xef]).unwrap();
    prints(&qkey, "chmod 600 large binary");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey /dev/zero",
                "qkey pubkey /dev/null",
                "qkey pubkey large",
                "qkey pubkey binary",
                "qkey pubkey socket",
                "qkey pubkey .",
                "qkey pubkey alice.pem/",
                "qkey pubkey alice.pem/x",
                "ln -s loop loop; qkey pubkey loop",
            ]
        ),
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
        .raw()
    );
}

#[test]
fn a_key_file_that_others_can_replace_is_warned_of_once() {
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
fn a_key_file_that_others_can_read_is_warned_of_and_used() {
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
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'my key.pem' --format base64",
                "qkey pubkey 'my key.pem' --format base64 --output json",
                "qkey pubkey 'my key.pem' --format base64 -q",
            ]
        ),
        str![[r#"
$ qkey pubkey 'my key.pem' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- exit 0
warning: my key.pem can be read or written by others (mode 0644); fix with: chmod 600 'my key.pem'

$ qkey pubkey 'my key.pem' --format base64 --output json
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}
--- exit 0
{"log":{"level":"warning","message":"my key.pem can be read or written by others (mode 0644); fix with: chmod 600 'my key.pem'"}}

$ qkey pubkey 'my key.pem' --format base64 -q
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==


"#]].raw()
    );
}

#[test]
fn a_key_is_read_in_full_however_it_arrives() {
    let qkey = Qkey::new();
    let mut child = qkey
        .command(["pubkey", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for byte in ALICE.bytes() {
        stdin.write_all(&[byte]).unwrap();
    }
    drop(stdin);
    let run = qkey.taken(&child.wait_with_output().unwrap());
    assert_eq!(run.stdout, prints(&qkey, "qkey pubkey alice.pem"));
}

#[test]
fn of_several_keys_the_one_that_fits_unlocks_in_any_order() {
    for order in [
        ["alice.pem", "bob.pem", "none.pem"],
        ["none.pem", "bob.pem", "alice.pem"],
    ] {
        let mock = Mock::new();
        let qkey = Qkey::with_mock(&mock);
        let id = mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
        mock.set_snapshot_field(1, "lock_key", &id);
        let keys = order.map(|key| format!("--key {key}")).join(" ");
        let run = shell::run(&qkey, &format!("qkey unlock --id 1 {keys}"));
        assert_eq!((run.code, &*run.stderr), (0, ""), "{keys}");
        assert_eq!(mock.lock_key(1), None);
    }
}

#[test]
fn a_key_on_stdin_takes_part_in_a_replacement() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    let args = [
        "replace",
        "-k",
        "lock",
        "--old-key",
        "alice.pem",
        "--new-key",
        "-",
    ];
    let run = qkey.run_with_stdin(args, BOB.as_bytes());
    assert_data_eq!(
        run.transcript(),
        str![[r#"
Replaced key 1 ("lock").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s

"#]]
        .raw()
    );
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
}

#[test]
fn no_echo_of_a_mistyped_source_shows_a_secret() {
    let qkey = Qkey::new()
        .env("QKEY_HOST", "127.0.0.1")
        .env("QKEY_PORT", "9");
    // Wherever the secret is, its digits are in it, before and after a space.
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
        for args in [
            &["pubkey", source][..],
            &["-vv", "sign", &value, "challenge"],
            &["-vv", "generate", source, "--format=sec1", "--encrypt"],
            &["pubkey", "alice.pem", source],
            &["keys", "show", source],
            &["add", "--name", source, &value],
            &[
                "replace",
                "--key-id",
                source,
                "--old-key",
                source,
                "--new-key",
                source,
            ],
            &["unlock", "--id", source],
            &["sign", "--key=alice.pem", "--format", source],
            &["--cluster", source, "keys"],
            &[&unexpected, "keys"],
            &[source],
        ] {
            for output in ["text", "json"] {
                let output = format!("--output={output}");
                let args = [args, &[output.as_str(), "--no-input"]].concat();
                let run = qkey.run(&args);
                assert!(!run.stdout.contains("8361"), "{args:?}: {run:?}");
                assert!(!run.stderr.contains("8361"), "{args:?}: {run:?}");
            }
        }
    }
}
