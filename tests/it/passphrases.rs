//! Where passphrases come from, and where they never go.

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    time::Instant,
};

use crate::support::{
    mock::Mock,
    qkey::{Qkey, public_key_base64},
    shell::{self, prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

/// `locked.pem` is Alice's key under the passphrase `open sesame`.
fn with_locked_key() -> Qkey {
    lock(Qkey::new(), "alice", "locked.pem", "open sesame")
}

/// Adds a key file under a passphrase.
fn lock(qkey: Qkey, owner: &str, name: &str, passphrase: &str) -> Qkey {
    qkey.write("pass.tmp", passphrase);
    prints(
        &qkey,
        &format!(
            "openssl pkcs8 -topk8 -v2 aes-256-cbc -in {owner}.pem -passout file:pass.tmp -out {name}
             chmod 600 {name}; rm pass.tmp"
        ),
    );
    qkey
}

#[test]
fn an_environment_variable_gives_it() {
    let qkey = with_locked_key()
        .env("RIGHT", "open sesame")
        .env("WRONG", "open barley")
        .env("SEVERAL", "open sesame\nopen barley\n")
        .env("EMPTY", "");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-env=RIGHT' --format base64",
                "qkey pubkey 'locked.pem?passphrase-env=WRONG'",
                "qkey pubkey 'locked.pem?passphrase-env=SEVERAL'",
                "qkey pubkey 'locked.pem?passphrase-env=EMPTY'",
                "qkey pubkey 'locked.pem?passphrase-env=NOT_SET'",
                "qkey pubkey 'locked.pem?passphrase-env=NOT_SET' --output json",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-env=RIGHT' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey 'locked.pem?passphrase-env=WRONG'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-env=SEVERAL'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in the environment variable SEVERAL has more than one line
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-env=EMPTY'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-env=NOT_SET'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the environment variable NOT_SET is not set
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-env=NOT_SET' --output json
--- exit 3
{"error":{"kind":"key","message":"cannot get the passphrase of locked.pem","causes":["the environment variable NOT_SET is not set"],"hint":"for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source","exit_code":3}}


"#]].raw()
    );
}

#[test]
fn set_but_empty_is_a_passphrase() {
    let qkey = Qkey::new().env("EMPTY", "");
    prints(&qkey, "qkey generate 'empty.pem?passphrase-env=EMPTY'");
    qkey.write("nothing", "");
    qkey.write("newline", "\n");
    for source in [
        "empty.pem?passphrase-env=EMPTY",
        "empty.pem?passphrase-file=nothing",
        "empty.pem?passphrase-file=newline",
        "empty.pem?passphrase-command=true",
        "empty.pem?passphrase-fd=0",
    ] {
        prints(&qkey, &format!("qkey pubkey '{source}'"));
    }
}

#[test]
fn a_file_gives_its_one_line() {
    let qkey = with_locked_key();
    qkey.write("plain", "open sesame");
    qkey.write("newline", "open sesame\n");
    qkey.write("crlf", "open sesame\r\n");
    qkey.write("utf-8-with-bom", "\u{feff}open sesame\r\n");
    for (name, unit) in [
        ("utf-16le", u16::to_le_bytes as fn(u16) -> [u8; 2]),
        ("utf-16be", u16::to_be_bytes),
    ] {
        let text = "\u{feff}open sesame\r\n".encode_utf16();
        qkey.write(name, text.flat_map(unit).collect::<Vec<u8>>());
    }
    qkey.write("nul", "open sesame\0");
    qkey.write("half", b"\xff\xfeo\0p");
    qkey.write("two", "open sesame\nopen barley\n");
    qkey.write("wrong", "open barley\n");
    qkey.write("blank", "open sesame \n");
    qkey.write("long", "x".repeat(20_000));
    fs::create_dir(qkey.path("folder")).unwrap();
    for file in [
        "plain",
        "newline",
        "crlf",
        "utf-8-with-bom",
        "utf-16le",
        "utf-16be",
    ] {
        let run = qkey.run(["pubkey", &format!("locked.pem?passphrase-file={file}")]);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{file}");
        for line in [
            format!("qkey pubkey 'locked.pem?passphrase-command=cat {file}'"),
            format!("qkey pubkey 'locked.pem?passphrase-fd=3' 3<{file}"),
        ] {
            prints(&qkey, &line);
        }
    }
    let env = "PASS=$(cat crlf) qkey pubkey 'locked.pem?passphrase-env=PASS'";
    prints(&qkey, env);
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-file=two'",
                "qkey pubkey 'locked.pem?passphrase-file=nul'",
                "qkey pubkey 'locked.pem?passphrase-file=half'",
                "qkey pubkey 'locked.pem?passphrase-file=wrong'",
                "qkey pubkey 'locked.pem?passphrase-file=blank'",
                "qkey pubkey 'locked.pem?passphrase-file=long'",
                "qkey pubkey 'locked.pem?passphrase-file=missing'",
                "qkey pubkey 'locked.pem?passphrase-file=folder'",
                "qkey pubkey 'locked.pem?passphrase-file=/dev/null'",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-file=two'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in two has more than one line
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-file=nul'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in nul contains a NUL byte
hint: it was not tried; convert it to UTF-8 without NUL bytes

$ qkey pubkey 'locked.pem?passphrase-file=half'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in half begins with the byte-order mark of UTF-16, but is not valid UTF-16
hint: it was not tried; convert it to UTF-8 without NUL bytes

$ qkey pubkey 'locked.pem?passphrase-file=wrong'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-file=blank'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-file=long'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in long is longer than any passphrase
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-file=missing'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in missing
  caused by: No such file or directory (os error 2)
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-file=folder'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in folder
  caused by: Is a directory (os error 21)
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-file=/dev/null'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`


"#]].raw()
    );
}

#[test]
fn a_file_that_others_can_read_is_warned_of_and_taken() {
    let qkey = with_locked_key();
    let file = qkey.write("pass word", "open sesame\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64",
                "qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64 -q",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- exit 0
warning: pass word can be read or written by others (mode 0640); fix with: chmod 600 'pass word'

$ qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64 -q
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==


"#]].raw()
    );
}

#[test]
fn a_file_descriptor_gives_it() {
    let qkey = with_locked_key();
    qkey.write("pass", "open sesame\n");
    qkey.write("wrong", "open barley\n");
    qkey.write("two", "open sesame\nopen barley\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-fd=3' --format base64 3< pass",
                "cat pass | qkey pubkey 'locked.pem?passphrase-fd=0' --format base64",
                "qkey pubkey 'locked.pem?passphrase-fd=3' 3< wrong",
                "qkey pubkey 'locked.pem?passphrase-fd=3' 3< two",
                "qkey pubkey 'locked.pem?passphrase-fd=3' 3< /dev/null",
                "qkey pubkey 'locked.pem?passphrase-fd=9' 9<&-",
                "qkey pubkey 'locked.pem?passphrase-fd=3' 3> /dev/null",
                "qkey pubkey 'locked.pem?passphrase-fd=three'",
                "qkey pubkey 'locked.pem?passphrase-fd=-1'",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-fd=3' --format base64 3< pass
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ cat pass | qkey pubkey 'locked.pem?passphrase-fd=0' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey 'locked.pem?passphrase-fd=3' 3< wrong
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-fd=3' 3< two
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem from file descriptor 3 has more than one line
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-fd=3' 3< /dev/null
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-fd=9' 9<&-
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem from file descriptor 9
  caused by: Bad file descriptor (os error 9)
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-fd=3' 3> /dev/null
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem from file descriptor 3
  caused by: Bad file descriptor (os error 9)
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-fd=three'
--- exit 2
error: "locked.pem?passphrase-fd=three" is not a key source: passphrase-fd is not a file descriptor
hint: use a number, as in passphrase-fd=3

$ qkey pubkey 'locked.pem?passphrase-fd=-1'
--- exit 2
error: "locked.pem?passphrase-fd=-1" is not a key source: passphrase-fd is not a file descriptor
hint: use a number, as in passphrase-fd=3


"#]].raw()
    );
}

#[test]
fn a_descriptor_may_be_a_socket() {
    // What some programs give their children as a pipe.
    let qkey = with_locked_key();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let command = qkey
        .command(["pubkey", "locked.pem?passphrase-fd=0", "--format=base64"])
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = ours.write_all(b"open sesame\n");
    drop(ours);
    let run = qkey.taken(&command.wait_with_output().unwrap());
    assert_eq!((run.code, &*run.stderr), (0, ""));
}

#[test]
fn a_descriptor_is_read_from_where_it_stands() {
    let qkey = with_locked_key();
    qkey.write("two", "the first line\nopen sesame\n");
    let line = "{ read -r first; qkey pubkey 'locked.pem?passphrase-fd=0'; } < two";
    let run = shell::run(&qkey, line);
    assert_eq!((run.code, &*run.stderr), (0, ""));
}

#[test]
fn a_command_prints_it() {
    let qkey = with_locked_key();
    qkey.write("pass", "open sesame\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-command=cat%20pass' --format base64",
                "qkey pubkey 'locked.pem?passphrase-command=echo%20hello%20%3E%262; cat pass' --format base64",
                "qkey pubkey 'locked.pem?passphrase-command=echo open barley'",
                "qkey pubkey 'locked.pem?passphrase-command=true'",
                "qkey pubkey 'locked.pem?passphrase-command=cat pass pass'",
                "qkey pubkey 'locked.pem?passphrase-command=exit 3'",
                "qkey pubkey 'locked.pem?passphrase-command=echo the vault is sealed >%262; exit 3'",
                "qkey pubkey 'locked.pem?passphrase-command=kill -9 $$'",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-command=cat%20pass' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey 'locked.pem?passphrase-command=echo%20hello%20%3E%262; cat pass' --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey pubkey 'locked.pem?passphrase-command=echo open barley'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-command=true'
--- exit 3
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-command=cat pass pass'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem from the command has more than one line
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-command=exit 3'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` exited with 3
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-command=echo the vault is sealed >%262; exit 3'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` exited with 3: the vault is sealed
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey 'locked.pem?passphrase-command=kill -9 $$'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` was killed by signal 9
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source


"#]].raw()
    );
}

#[test]
fn a_command_that_is_not_there_is_named_in_the_shells_words() {
    let qkey = with_locked_key();
    let run = qkey.run([
        "pubkey",
        "locked.pem?passphrase-command=qkey-has-no-such-program",
    ]);
    assert_eq!((run.code, &*run.stdout), (3, ""));
    let words = run
        .stderr
        .lines()
        .find(|line| line.contains("/bin/sh"))
        .unwrap();
    assert!(words.contains("qkey-has-no-such-program"), "{}", run.stderr);
}

#[test]
fn what_a_failing_command_has_printed_is_not_shown() {
    let qkey = with_locked_key();
    let run = qkey.run([
        "pubkey",
        "locked.pem?passphrase-command=echo open sesame; exit 3",
        "-vv",
    ]);
    assert_eq!(run.code, 3);
    // The command line itself is the user's own and stands in the title; its output does not.
    let told = run.stderr.replace("echo open sesame", "");
    assert!(!told.contains("open sesame"), "{told}");
}

#[test]
fn a_command_that_hangs_is_ended() {
    let qkey = with_locked_key();
    let started = Instant::now();
    assert_data_eq!(
        transcript(
            &qkey,
            ["qkey pubkey 'locked.pem?passphrase-command=sleep 300' --timeout 1"]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-command=sleep 300' --timeout 1
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` did not finish within 1 s and was killed
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source


"#]].raw()
    );
    assert!(started.elapsed().as_secs() < 60);
}

#[test]
fn a_passphrase_for_a_key_that_is_not_encrypted_is_an_error() {
    let qkey = Qkey::new();
    for (attribute, value) in [
        ("passphrase-env", "NOT_SET"),
        ("passphrase-file", "missing"),
        ("passphrase-fd", "9"),
        ("passphrase-command", "false"),
    ] {
        let run = qkey.run(["pubkey", &format!("alice.pem?{attribute}={value}")]);
        assert_eq!(run.code, 3, "{run:?}");
        let told = format!("the key is not encrypted, so {attribute} has no effect");
        assert!(run.stderr.contains(&told), "{run:?}");
    }
}

#[test]
fn it_is_given_in_one_way_and_by_an_attribute_that_is_known() {
    let qkey = with_locked_key();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey 'locked.pem?passphrase-env=A&passphrase-file=b'",
                "qkey pubkey 'locked.pem?passphrase-env=A&passphrase-env=B'",
                "qkey pubkey 'locked.pem?passphrase-flie=b'",
                "qkey pubkey 'locked.pem?passphrase=secret'",
                "qkey pubkey 'locked.pem?pin-env=A'",
                "qkey pubkey 'locked.pem?passphrase-env'",
                "qkey pubkey 'locked.pem?passphrase-file=%zz'",
            ]
        ),
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-env=A&passphrase-file=b'
--- exit 2
error: "locked.pem?passphrase-env=A&passphrase-file=b" is not a key source: more than one source for the passphrase

$ qkey pubkey 'locked.pem?passphrase-env=A&passphrase-env=B'
--- exit 2
error: "locked.pem?passphrase-env=A&passphrase-env=B" is not a key source: attribute "passphrase-env" is given twice

$ qkey pubkey 'locked.pem?passphrase-flie=b'
--- exit 2
error: "locked.pem?passphrase-flie=…" is not a key source: unknown attribute "passphrase-flie"
hint: did you mean "passphrase-file"? file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

$ qkey pubkey 'locked.pem?passphrase=secret'
--- exit 2
error: "locked.pem?passphrase=…" is not a key source: unknown attribute "passphrase"
hint: did you mean "passphrase-fd"? file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

$ qkey pubkey 'locked.pem?pin-env=A'
--- exit 2
error: "locked.pem?pin-env=…" is not a key source: unknown attribute "pin-env"
hint: file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

$ qkey pubkey 'locked.pem?passphrase-env'
--- exit 2
error: "locked.pem?…" is not a key source: an attribute without a value
hint: file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

$ qkey pubkey 'locked.pem?passphrase-file=%zz'
--- exit 2
error: "locked.pem?passphrase-file=%zz" is not a key source: attribute "passphrase-file": a `%` without two hex digits after it (write `%25`)


"#]].raw()
    );
}

#[test]
fn nobody_is_asked_without_a_terminal_or_when_asking_is_off() {
    let qkey = with_locked_key();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey locked.pem",
                "qkey pubkey locked.pem --no-input",
                "QKEY_NO_INPUT=1 qkey pubkey locked.pem",
                "QKEY_NO_INPUT=0 qkey pubkey locked.pem",
                "QKEY_NO_INPUT=false qkey pubkey locked.pem --output json",
            ]
        ),
        str![[r#"
$ qkey pubkey locked.pem
--- exit 3
error: locked.pem is encrypted, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey pubkey locked.pem --no-input
--- exit 3
error: locked.pem is encrypted, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ QKEY_NO_INPUT=1 qkey pubkey locked.pem
--- exit 3
error: locked.pem is encrypted, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ QKEY_NO_INPUT=0 qkey pubkey locked.pem
--- exit 3
error: locked.pem is encrypted, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ QKEY_NO_INPUT=false qkey pubkey locked.pem --output json
--- exit 3
{"error":{"kind":"key","message":"locked.pem is encrypted, and there is no terminal to prompt on","causes":[],"hint":"for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source","exit_code":3}}


"#]].raw()
    );
}

#[test]
fn nobody_is_asked_when_the_configuration_says_so() {
    let qkey = with_locked_key();
    qkey.configure("[defaults]\nno-input = true\n");
    let run = qkey.run(["pubkey", "locked.pem"]);
    assert!(
        run.stderr.contains("--no-input forbids prompting"),
        "{}",
        run.stderr
    );
}

/// A cluster that holds Alice's key, `old.pem` (Alice) and `new.pem` (Bob) with passphrases of
/// their own.
fn with_two_locked_keys() -> (Mock, Qkey) {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let qkey = lock(qkey, "alice", "old.pem", "the old one");
    let qkey = lock(qkey, "bob", "new.pem", "the new one");
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    (mock, qkey)
}

#[test]
fn two_keys_are_opened_with_two_passphrases() {
    let (mock, qkey) = with_two_locked_keys();
    let qkey = qkey.env("NEW", "the new one");
    qkey.write("old.pass", "the old one\n");
    assert_data_eq!(
        transcript(
            &qkey,
            ["qkey replace -k lock --old-key 'old.pem?passphrase-file=old.pass' --new-key 'new.pem?passphrase-env=NEW'"]
        ),
        str![[r#"
$ qkey replace -k lock --old-key 'old.pem?passphrase-file=old.pass' --new-key 'new.pem?passphrase-env=NEW'
Replaced key 1 ("lock").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s


"#]].raw()
    );
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
}

#[test]
fn one_descriptor_serves_two_keys() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let qkey = lock(qkey, "alice", "old.pem", "the same");
    let qkey = lock(qkey, "bob", "new.pem", "the same");
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    let run = shell::run(
        &qkey,
        "echo the same | qkey replace -k lock --old-key 'old.pem?passphrase-fd=0' --new-key 'new.pem?passphrase-fd=0'",
    );
    assert_eq!((run.code, &*run.stderr), (0, ""));
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
}

#[test]
fn a_wrong_passphrase_of_either_key_sends_nothing() {
    let (mock, qkey) = with_two_locked_keys();
    let qkey = qkey.env("OLD", "the old one").env("NEW", "the new one");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey replace -k lock --old-key 'old.pem?passphrase-env=NEW' --new-key 'new.pem?passphrase-env=NEW'",
                "qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key 'new.pem?passphrase-env=OLD'",
                "qkey replace -k lock --old-key old.pem --new-key 'new.pem?passphrase-env=NEW'",
                "qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key new.pem --no-input",
            ]
        ),
        str![[r#"
$ qkey replace -k lock --old-key 'old.pem?passphrase-env=NEW' --new-key 'new.pem?passphrase-env=NEW'
--- exit 3
error: cannot use the key file old.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in old.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f old.pem`

$ qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key 'new.pem?passphrase-env=OLD'
--- exit 3
error: cannot use the key file new.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in new.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f new.pem`

$ qkey replace -k lock --old-key old.pem --new-key 'new.pem?passphrase-env=NEW'
--- exit 3
error: old.pem is encrypted, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key new.pem --no-input
--- exit 3
error: new.pem is encrypted, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source


"#]].raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn a_passphrase_is_in_no_output_and_in_no_command_line() {
    let secrets = ["xyzzy-7c1f-old", "xyzzy-93ae-new"];
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let qkey = lock(qkey, "alice", "old.pem", secrets[0]);
    let qkey = lock(qkey, "bob", "new.pem", secrets[1]);
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    // A qq that notes the command line of every process there is while qkey works.
    qkey.write(
        "qq",
        "#!/bin/sh\nfor line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line; echo; done >> seen 2>/dev/null\nexec \"$REAL_QQ\" \"$@\"\n",
    );
    let real = mock.program();
    let qkey = qkey.env("REAL_QQ", real.to_str().unwrap());
    qkey.write("old.pass", secrets[0]);
    qkey.write("new.pass", secrets[1]);
    prints(&qkey, "chmod 700 qq");
    for (old, new) in [
        ("passphrase-file=old.pass", "passphrase-file=new.pass"),
        ("passphrase-command=cat old.pass", "passphrase-fd=3"),
        // Wrong ones are no business of anybody's either.
        ("passphrase-file=new.pass", "passphrase-file=old.pass"),
    ] {
        for output in ["text", "json"] {
            let line = format!(
                "qkey --qq ./qq -vv --output {output} replace --dry-run -k lock \\
                    --old-key 'old.pem?{old}' --new-key 'new.pem?{new}' 3< new.pass"
            );
            let run = shell::run(&qkey, &line);
            assert!(run.stderr.contains("running [DIR]/qq"), "{run:?}");
            for secret in secrets {
                assert!(
                    !run.stdout.contains(secret) && !run.stderr.contains(secret),
                    "{run:?}"
                );
            }
        }
    }
    let seen = fs::read_to_string(qkey.path("seen")).unwrap();
    assert!(seen.contains("qkey --qq ./qq"), "{seen}");
    assert!(
        !secrets.iter().any(|secret| seen.contains(secret)),
        "{seen}"
    );
}

#[test]
fn a_passphrase_command_is_run_without_showing_its_text() {
    let qkey = with_locked_key();
    qkey.configure(
        "[keys.c]\nsource = '../../locked.pem?passphrase-command=echo \"open sesame\"'\n",
    );
    assert_data_eq!(
        without_times(&transcript(
            &qkey,
            [
                "qkey -vv pubkey c --format base64",
                "qkey -vv pubkey 'locked.pem?passphrase-command=echo%20open%20barley'",
                "qkey pubkey 'locked.pem?passphrase-command=echo open barley; exit 5' --output json",
                "qkey pubkey 'locked.pem?passphrase-command=echo a && echo b=open&x=open'",
                "qkey config show | grep '^c '",
            ]
        )),
        str![[r#"
$ qkey -vv pubkey c --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- exit 0
running /bin/sh …
/bin/sh took [TIME]

$ qkey -vv pubkey 'locked.pem?passphrase-command=echo%20open%20barley'
--- exit 3
running /bin/sh …
/bin/sh took [TIME]
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`

$ qkey pubkey 'locked.pem?passphrase-command=echo open barley; exit 5' --output json
--- exit 3
{"error":{"kind":"key","message":"cannot get the passphrase of locked.pem","causes":["the command for the passphrase of locked.pem failed","`/bin/sh` exited with 5"],"hint":"for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source","exit_code":3}}

$ qkey pubkey 'locked.pem?passphrase-command=echo a && echo b=open&x=open'
--- exit 2
error: "locked.pem?passphrase-command=…&…&…" is not a key source: unknown attribute after a hidden one
hint: in a value, write `&` as %26

$ qkey config show | grep '^c '
c    ../../locked.pem?passphrase-command=…


"#]]
    );
}

/// The text without how long programs took.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" took ") {
        Some((program, _)) => format!("{program} took [TIME]\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error_whatever_qkey_has_opened_itself() {
    let qkey = with_locked_key();
    for number in 3..=9 {
        let line = format!(
            "exec timeout 20 qkey pubkey 'locked.pem?passphrase-fd={number}' \
                3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-"
        );
        let run = shell::run(&qkey, &line);
        let expected = format!(
            "error: cannot get the passphrase of locked.pem\n  \
                caused by: cannot read the passphrase of locked.pem from file descriptor {number}\n  \
                caused by: Bad file descriptor (os error 9)\n"
        );
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.starts_with(&expected), "{run:?}");
    }
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error_while_qq_runs() {
    let (mock, qkey) = with_two_locked_keys();
    for number in 3..=9 {
        let line = format!(
            "exec timeout 20 qkey replace -k lock --old-key 'old.pem?passphrase-fd={number}' \
                --new-key bob.pem 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-"
        );
        let run = shell::run(&qkey, &line);
        assert_eq!(run.code, 3, "{run:?}");
        assert!(run.stderr.contains("Bad file descriptor"), "{run:?}");
    }
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

/// Tells what it gets from `qkey`: its environment, and what it can read of descriptor 7.
const CURIOUS: &str = r#"env >>seen
    if [ -e /proc/self/fd/7 ]; then echo 'descriptor 7 is open' >>seen; fi
    { cat <&7; } >>seen 2>/dev/null"#;

#[test]
fn qq_gets_no_passphrase_from_a_descriptor_or_a_variable() {
    let (mock, qkey) = with_two_locked_keys();
    let qkey = qkey
        .between(&mock, CURIOUS)
        .env("OLD", "the old one")
        .env("BYSTANDER", "in plain sight");
    qkey.write("new.pass", "the new one\n");
    let line = "qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' \
        --new-key 'new.pem?passphrase-fd=7' 7< new.pass";
    let run = shell::run(&qkey, line);
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
    let seen = fs::read_to_string(qkey.path("seen")).unwrap();
    assert!(seen.contains("BYSTANDER=in plain sight\n"), "{seen}");
    for secret in ["OLD=", "the old one", "the new one", "descriptor 7"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
}

#[test]
fn qq_gets_no_passphrase_of_a_configured_key() {
    let (mock, qkey) = with_two_locked_keys();
    let qkey = qkey.between(&mock, CURIOUS).env("OLD", "the old one");
    mock.set_snapshot_field(1, "lock_key", "1");
    qkey.write("new.pass", "the new one\n");
    qkey.configure(
        "[keys.old]\nsource = \"../../old.pem?passphrase-env=OLD\"\n\
         [keys.new]\nsource = \"../../new.pem?passphrase-fd=7\"\n",
    );
    let run = shell::run(&qkey, "qkey unlock --id=1 7< new.pass");
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    let seen = fs::read_to_string(qkey.path("seen")).unwrap();
    for secret in ["OLD=", "the old one", "the new one", "descriptor 7"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
}

#[test]
fn no_program_gets_a_secret_that_any_key_source_names() {
    let mock = Mock::new();
    mock.add_key(
        "lock",
        "",
        &public_key_base64(&Qkey::new().path("alice.pem")),
    );
    let qkey = lock(Qkey::with_mock(&mock), "alice", "locked.pem", "open sesame")
        .between(&mock, CURIOUS)
        .env("CONFIGURED", "secret one")
        .env("TYPED_OUT", "secret two")
        .env("QKEY_TOKEN", "secret three")
        .env("BYSTANDER", "in plain sight");
    qkey.write("secret", "secret four\n");
    qkey.configure(
        "[keys.a]\nsource = \"../../a.pem?passphrase-env=CONFIGURED\"\n\
         [keys.b]\nsource = \"../../b.pem?passphrase-fd=7\"\n",
    );
    // Each of them is run in place of the program that has its name.
    for name in [
        "openssl",
        "aws",
        "az",
        "gcloud",
        "bao",
        "vault",
        "qkey-signer-x",
        "passphrase",
    ] {
        fs::create_dir_all(qkey.path("bin")).unwrap();
        qkey.write_program(
            &format!("bin/{name}"),
            &format!("#!/bin/sh\n{CURIOUS}\nexit 1\n"),
        );
    }
    for (line, programs) in [
        ("keys", 1),
        ("pubkey openssl:alice.pem", 1),
        ("pubkey awskms:///alias/a?region=r", 1),
        ("pubkey azurekms://v/k", 1),
        (
            "pubkey gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1",
            1,
        ),
        ("pubkey hashivault://k", 1),
        ("pubkey plugin:x:y", 1),
        ("pubkey 'locked.pem?passphrase-command=passphrase'", 1),
        ("add --name=lock --key=alice.pem", 1),
        // The key that is named last is not opened any more.
        (
            "replace -k lock --old-key 'locked.pem?passphrase-command=passphrase' \
                --new-key 'openssl:x?passphrase-env=TYPED%5FOUT'",
            1,
        ),
    ] {
        let _ = fs::remove_file(qkey.path("seen"));
        let line = format!(
            "PATH={}/bin:$PATH; qkey {line} 7<secret",
            qkey.path("").display()
        );
        let run = shell::run(&qkey, &line);
        let seen = fs::read_to_string(qkey.path("seen")).unwrap_or_default();
        let bystanders = seen.matches("BYSTANDER=in plain sight\n").count();
        assert!(bystanders >= programs, "{line}: {run:?}");
        let typed = match line.contains("TYPED%5FOUT") {
            true => "TYPED_OUT=",
            false => "none",
        };
        for secret in [
            "CONFIGURED=",
            "QKEY_TOKEN=",
            "secret four",
            "descriptor 7",
            typed,
        ] {
            assert!(!seen.contains(secret), "{secret}: {line}: {seen}");
        }
    }
}

#[test]
fn a_file_that_nobody_writes_is_waited_for_no_longer_than_the_timeout() {
    let qkey = with_locked_key();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "mkfifo pass.fifo",
                "exec timeout 30 qkey pubkey 'locked.pem?passphrase-file=pass.fifo' --timeout 1",
                "sleep 300 >pass.fifo & timeout 30 qkey pubkey 'locked.pem?passphrase-file=pass.fifo' --timeout 1; code=$?; kill $!; exit $code",
            ]
        ),
        str![[r#"
$ mkfifo pass.fifo

$ exec timeout 30 qkey pubkey 'locked.pem?passphrase-file=pass.fifo' --timeout 1
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in pass.fifo
  caused by: no end of input within 1 s
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

$ sleep 300 >pass.fifo & timeout 30 qkey pubkey 'locked.pem?passphrase-file=pass.fifo' --timeout 1; code=$?; kill $!; exit $code
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in pass.fifo
  caused by: no end of input within 1 s
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source


"#]].raw()
    );
}

#[test]
fn stdin_is_not_both_the_passphrase_and_something_else() {
    let qkey = with_locked_key();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "printf x | qkey sign --key 'locked.pem?passphrase-fd=0'",
                "printf x | qkey sign --key 'locked.pem?passphrase-fd=0' -",
                "printf x | qkey sign --key 'locked.pem?passphrase-fd=0' --challenge-file -",
                "printf x | qkey sign --key 'locked.pem?passphrase-file=/dev/stdin'",
                "cat locked.pem | qkey sign --key='-?passphrase-fd=0' lock-2026",
                "cat locked.pem | qkey pubkey -- '-?passphrase-fd=0'",
                "cat locked.pem | qkey pubkey -- '-?passphrase-file=/dev/stdin'",
            ]
        ),
        str![[r#"
$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0'
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0' -
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0' --challenge-file -
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ printf x | qkey sign --key 'locked.pem?passphrase-file=/dev/stdin'
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file

$ cat locked.pem | qkey sign --key='-?passphrase-fd=0' lock-2026
--- exit 2
error: "-?passphrase-fd=0" is not a key source: only one of the key and its passphrase may read stdin
hint: put one of them in a file

$ cat locked.pem | qkey pubkey -- '-?passphrase-fd=0'
--- exit 2
error: "-?passphrase-fd=0" is not a key source: only one of the key and its passphrase may read stdin
hint: put one of them in a file

$ cat locked.pem | qkey pubkey -- '-?passphrase-file=/dev/stdin'
--- exit 2
error: "-?passphrase-file=/dev/stdin" is not a key source: only one of the key and its passphrase may read stdin
hint: put one of them in a file


"#]]
        .raw()
    );
    let run = shell::run(
        &qkey,
        "printf 'open sesame' | qkey sign --key 'locked.pem?passphrase-fd=0' lock-2026",
    );
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
}
