//! Where passphrases come from, and where they never go.

use std::{
    fs,
    io::Write,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
};

use crate::support::{
    key_source::encrypt,
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey},
    session::assert_session,
    shell::{self, prints},
};
use snapbox::str;

/// `locked.pem` is Alice's key under the passphrase `open sesame`.
fn with_locked_key() -> Qkey {
    let qkey = Qkey::new();
    encrypt(&qkey, "alice.pem", "locked.pem", "open sesame");
    qkey
}

#[test]
fn passphrase_comes_from_variable_file_descriptor_or_command() {
    let qkey = with_locked_key()
        .env("RIGHT", "open sesame")
        .env("WRONG", "open barley")
        .env("TWO", "open sesame\nopen barley\n")
        .env("EMPTY", "");
    for (name, text) in [
        ("right", "open sesame\n"),
        ("blank", "open sesame \n"),
        ("two", "open sesame\nopen barley\n"),
        ("second", "the first line\nopen sesame\n"),
        ("nul", "open sesame\0"),
    ] {
        qkey.write(name, text);
    }
    qkey.write("half", b"\xff\xfeo\0p");
    qkey.write("long", "x".repeat(20_000));
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-env=RIGHT' --format base64
$ qkey pubkey 'locked.pem?passphrase-fd=3' --format base64 3< right
$ cat right | qkey pubkey 'locked.pem?passphrase-fd=0' --format base64
$ { read -r first; qkey pubkey 'locked.pem?passphrase-fd=0' --format base64; } < second
$ qkey pubkey 'locked.pem?passphrase-command=cat%20right' --format base64
$ qkey pubkey 'locked.pem?passphrase-command=echo%20hello%20%3E%262; cat right' --format base64
[ALICE]
$ qkey pubkey 'locked.pem?passphrase-env=WRONG'
$ qkey pubkey 'locked.pem?passphrase-env=EMPTY'
$ qkey pubkey 'locked.pem?passphrase-file=blank'
$ qkey pubkey 'locked.pem?passphrase-file=/dev/null'
$ qkey pubkey 'locked.pem?passphrase-fd=3' 3< /dev/null
$ qkey pubkey 'locked.pem?passphrase-command=echo open barley'
$ qkey pubkey 'locked.pem?passphrase-command=true'
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
$ qkey pubkey 'locked.pem?passphrase-env=TWO'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in the environment variable TWO has more than one line
$ qkey pubkey 'locked.pem?passphrase-file=two'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in two has more than one line
$ qkey pubkey 'locked.pem?passphrase-fd=3' 3< two
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem from file descriptor 3 has more than one line
$ qkey pubkey 'locked.pem?passphrase-command=cat two'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem from the command has more than one line
$ qkey pubkey 'locked.pem?passphrase-file=long'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in long is too long
$ qkey pubkey 'locked.pem?passphrase-file=missing'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in missing
  caused by: No such file or directory (os error 2)
$ qkey pubkey 'locked.pem?passphrase-file=.'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in .
  caused by: Is a directory (os error 21)
$ qkey pubkey 'locked.pem?passphrase-fd=9' 9<&-
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem from file descriptor 9
  caused by: Bad file descriptor (os error 9)
$ qkey pubkey 'locked.pem?passphrase-fd=3' 3> /dev/null
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem from file descriptor 3
  caused by: Bad file descriptor (os error 9)
$ qkey pubkey 'locked.pem?passphrase-command=exit 3'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` exited with 3
$ qkey pubkey 'locked.pem?passphrase-command=echo the vault is sealed >%262; exit 3'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` exited with 3: the vault is sealed
$ qkey pubkey 'locked.pem?passphrase-command=kill -9 $$'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` was killed by signal 9
$ timeout 60 qkey pubkey 'locked.pem?passphrase-command=sleep 300' --timeout 1
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` did not finish within 1 s and was killed
$ mkfifo fifo; exec timeout 30 qkey pubkey 'locked.pem?passphrase-file=fifo' --timeout 1
$ sleep 300 >fifo & timeout 30 qkey pubkey 'locked.pem?passphrase-file=fifo' --timeout 1; code=$?; kill $!; exit $code
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: cannot read the passphrase of locked.pem in fifo
  caused by: no end of input within 1 s
$ qkey pubkey 'locked.pem?passphrase-file=nul'
--- exit 3
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in nul contains a NUL byte
hint: it was not tried; convert it to UTF-8 without NUL bytes
$ qkey pubkey 'locked.pem?passphrase-file=half'
--- exit 3, hint as above
error: cannot get the passphrase of locked.pem
  caused by: the passphrase of locked.pem in half begins with the byte-order mark of UTF-16, but is not valid UTF-16
$ qkey pubkey 'locked.pem?passphrase-command=no-such-program' 2>&1 | grep -c '/bin/sh.*no-such-program'
1

"#]]
    );
}

#[test]
fn empty_passphrase_is_a_passphrase() {
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
fn line_ending_and_byte_order_mark_are_not_part_of_passphrase() {
    let qkey = with_locked_key();
    qkey.write("plain", "open sesame");
    qkey.write("crlf", "open sesame\r\n");
    qkey.write("utf-8-with-bom", "\u{feff}open sesame\r\n");
    for (name, unit) in [
        ("utf-16le", u16::to_le_bytes as fn(u16) -> [u8; 2]),
        ("utf-16be", u16::to_be_bytes),
    ] {
        let text = "\u{feff}open sesame\r\n".encode_utf16();
        qkey.write(name, text.flat_map(unit).collect::<Vec<u8>>());
    }
    prints(
        &qkey,
        "set -e; PASS=$(cat crlf) qkey pubkey 'locked.pem?passphrase-env=PASS'
         for file in plain crlf utf-8-with-bom utf-16le utf-16be; do
             qkey pubkey \"locked.pem?passphrase-file=$file\"
             qkey pubkey \"locked.pem?passphrase-command=cat $file\"
             qkey pubkey 'locked.pem?passphrase-fd=3' 3<$file
         done",
    );
}

#[test]
fn passphrase_file_readable_by_others_is_a_warning() {
    let qkey = with_locked_key();
    let file = qkey.write("pass word", "open sesame\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64
[ALICE]
--- exit 0
warning: pass word can be read or written by others (mode 0640); fix with: chmod 600 'pass word'
$ qkey pubkey 'locked.pem?passphrase-file=pass%20word' --format base64 -q
[ALICE]

"#]]
    );
}

/// Some programs give their children a socket as a pipe.
#[test]
fn descriptor_may_be_a_socket() {
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
fn malformed_and_useless_attributes_are_rejected_unread() {
    let qkey = with_locked_key();
    assert_session!(
        qkey,
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
--- exit 2, hint as above
error: "locked.pem?…" is not a key source: an attribute without a value
$ qkey pubkey 'locked.pem?passphrase-file=%zz'
--- exit 2
error: "locked.pem?passphrase-file=%zz" is not a key source: attribute "passphrase-file": a `%` without two hex digits after it (write `%25`)
$ qkey pubkey 'locked.pem?passphrase-fd=three'
--- exit 2
error: "locked.pem?passphrase-fd=three" is not a key source: passphrase-fd is not a file descriptor
hint: use a number, as in passphrase-fd=3
$ qkey pubkey 'locked.pem?passphrase-fd=-1'
--- exit 2, hint as above
error: "locked.pem?passphrase-fd=-1" is not a key source: passphrase-fd is not a file descriptor
$ qkey pubkey 'alice.pem?passphrase-env=NOT_SET'
--- exit 3
error: cannot open alice.pem
  caused by: the key is not encrypted, so passphrase-env has no effect
hint: remove passphrase-env from the key source, or encrypt the key first: `openssl pkcs8 -topk8 -in alice.pem -out NEW`, or for OpenSSH's format `ssh-keygen -p -f alice.pem`
$ qkey pubkey 'alice.pem?passphrase-file=missing' 2>&1 | grep caused
  caused by: the key is not encrypted, so passphrase-file has no effect
$ qkey pubkey 'alice.pem?passphrase-fd=9' 2>&1 | grep caused
  caused by: the key is not encrypted, so passphrase-fd has no effect
$ qkey pubkey 'alice.pem?passphrase-command=false' 2>&1 | grep caused
  caused by: the key is not encrypted, so passphrase-command has no effect

"#]]
    );
}

#[test]
fn nobody_is_prompted_without_a_terminal_or_with_no_input() {
    let qkey = with_locked_key();
    qkey.write("no-input.toml", "[defaults]\nno-input = true\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey locked.pem
$ QKEY_NO_INPUT=0 qkey pubkey locked.pem
--- exit 3
error: locked.pem is encrypted, and there is no terminal to prompt on
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
$ qkey pubkey locked.pem --no-input
$ QKEY_NO_INPUT=1 qkey pubkey locked.pem
$ qkey pubkey locked.pem --config no-input.toml
--- exit 3, hint as above
error: locked.pem is encrypted, but --no-input forbids prompting

"#]]
    );
}

/// A cluster that holds Alice's key, and `old.pem` (Alice) and `new.pem` (Bob) with passphrases of
/// their own.
fn with_two_locked_keys() -> (Mock, Qkey) {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock).env("OLD", "the old one");
    encrypt(&qkey, "alice.pem", "old.pem", "the old one");
    encrypt(&qkey, "bob.pem", "new.pem", "the new one");
    mock.add_key("lock", "", ALICE_PUBLIC);
    (mock, qkey)
}

#[test]
fn replace_takes_two_passphrases_and_sends_nothing_if_either_is_wrong() {
    let (mock, qkey) = with_two_locked_keys();
    let qkey = qkey.env("NEW", "the new one");
    assert_session!(
        qkey,
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
--- exit 3, hint as above
error: new.pem is encrypted, but --no-input forbids prompting

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
    encrypt(&qkey, "carol.pem", "next.pem", "the new one");
    assert_session!(
        qkey,
        str![[r#"
$ qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key 'new.pem?passphrase-env=NEW'
Replaced key 1 ("lock").
  was SHA256:[ALICE]
  now SHA256:[BOB]
$ echo the new one | qkey replace -k lock --old-key 'new.pem?passphrase-fd=0' --new-key 'next.pem?passphrase-fd=0'
Replaced key 1 ("lock").
  was SHA256:[BOB]
  now SHA256:[CAROL]

"#]]
    );
}

#[test]
fn passphrase_is_in_no_output_and_no_command_line() {
    let secrets = ["xyzzy-7c1f-old", "xyzzy-93ae-new"];
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    encrypt(&qkey, "alice.pem", "old.pem", secrets[0]);
    encrypt(&qkey, "bob.pem", "new.pem", secrets[1]);
    mock.add_key("lock", "", ALICE_PUBLIC);
    // It records the command line of every process.
    let hook =
        r"for line in /proc/[0-9]*/cmdline; do tr '\0' ' ' < $line; echo; done >>seen 2>/dev/null";
    let qkey = qkey.between(&mock, hook);
    qkey.write("old.pass", secrets[0]);
    qkey.write("new.pass", secrets[1]);
    for (old, new) in [
        ("passphrase-file=old.pass", "passphrase-file=new.pass"),
        ("passphrase-command=cat old.pass", "passphrase-fd=3"),
        // Wrong ones are secrets, too.
        ("passphrase-file=new.pass", "passphrase-file=old.pass"),
    ] {
        for output in ["text", "json"] {
            let line = format!(
                "qkey -vv --output {output} replace --dry-run -k lock \\
                    --old-key 'old.pem?{old}' --new-key 'new.pem?{new}' 3< new.pass"
            );
            let run = shell::run(&qkey, &line);
            assert!(run.stderr.contains("running [DIR]/qq-between"), "{run:?}");
            for secret in secrets {
                let shown = run.stdout.contains(secret) || run.stderr.contains(secret);
                assert!(!shown, "{run:?}");
            }
        }
    }
    let seen = fs::read_to_string(qkey.path("seen")).unwrap();
    assert!(seen.contains("qkey -vv --output"), "{seen}");
    assert!(
        !secrets.iter().any(|secret| seen.contains(secret)),
        "{seen}"
    );
}

#[test]
fn passphrase_command_and_its_output_are_never_shown() {
    let qkey = with_locked_key();
    qkey.configure(
        "[keys.c]\nsource = '../../locked.pem?passphrase-command=echo \"open sesame\"'\n",
    );
    assert_session!(
        qkey,
        str![[r#"
$ qkey -vv pubkey c --format base64
[ALICE]
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
$ qkey -vv pubkey 'locked.pem?passphrase-command=echo open sesame; exit 5'
--- exit 3
running /bin/sh …
/bin/sh took [TIME]
error: cannot get the passphrase of locked.pem
  caused by: the command for the passphrase of locked.pem failed
  caused by: `/bin/sh` exited with 5
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
$ qkey pubkey 'locked.pem?passphrase-command=echo open barley; exit 5' --output json
--- exit 3
{"error":{"kind":"key","message":"cannot get the passphrase of locked.pem","causes":["the command for the passphrase of locked.pem failed","`/bin/sh` exited with 5"],"hint":"for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source","exit_code":3}}
$ qkey pubkey 'locked.pem?passphrase-command=echo a && echo b=open&x=open'
--- exit 2
error: "locked.pem?passphrase-command=…&…&…" is not a key source: unknown attribute after a hidden one
hint: in a value, write `&` as %26
$ qkey config show | grep '^c '
c    ../../locked.pem?passphrase-command=…

"#]],
        without_times
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

/// `qkey` itself opens files under the numbers that are free.
#[test]
fn closed_descriptor_is_an_error_whatever_qkey_has_opened() {
    let (mock, qkey) = with_two_locked_keys();
    for number in 3..=9 {
        for command in [
            "pubkey KEY",
            "replace -k lock --old-key KEY --new-key bob.pem",
        ] {
            let command = command.replace("KEY", &format!("'old.pem?passphrase-fd={number}'"));
            let closed = "3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&-";
            let run = shell::run(&qkey, &format!("exec timeout 20 qkey {command} {closed}"));
            assert_eq!(run.code, 3, "{run:?}");
            assert!(run.stderr.contains("Bad file descriptor"), "{run:?}");
        }
    }
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

/// Records what it gets from `qkey`: its environment, and what it can read of descriptor 7.
const CURIOUS: &str = r#"env >>seen
    if [ -e /proc/self/fd/7 ]; then echo 'descriptor 7 is open' >>seen; fi
    { cat <&7; } >>seen 2>/dev/null"#;

#[test]
fn qq_inherits_no_passphrase() {
    let (mock, qkey) = with_two_locked_keys();
    mock.set_snapshot_field(1, "lock_key", "1");
    let qkey = qkey
        .between(&mock, CURIOUS)
        .env("BYSTANDER", "in plain sight");
    qkey.write("new.pass", "the new one\n");
    qkey.write(
        "keys.toml",
        "[keys]\nold.source = 'old.pem?passphrase-env=OLD'\nnew.source = 'new.pem?passphrase-fd=7'\n",
    );
    for line in [
        "qkey replace -k lock --old-key 'old.pem?passphrase-env=OLD' --new-key 'new.pem?passphrase-fd=7'",
        "qkey unlock --id=1 --config keys.toml",
    ] {
        let run = shell::run(&qkey, &format!("{line} 7< new.pass"));
        assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
        assert_eq!(mock.public_key("1"), BOB_PUBLIC);
        let seen = fs::read_to_string(qkey.path("seen")).unwrap();
        assert!(seen.contains("BYSTANDER=in plain sight\n"), "{seen}");
        for secret in ["OLD=", "the old one", "the new one", "descriptor 7"] {
            assert!(!seen.contains(secret), "{secret}: {seen}");
        }
    }
}

#[test]
fn no_program_inherits_a_secret_that_any_key_source_names() {
    let mock = Mock::new();
    mock.add_key("lock", "", ALICE_PUBLIC);
    let qkey = Qkey::with_mock(&mock)
        .between(&mock, CURIOUS)
        .env("CONFIGURED", "secret one")
        .env("TYPED_OUT", "secret two")
        .env("QKEY_TOKEN", "secret three")
        .env("BYSTANDER", "in plain sight");
    encrypt(&qkey, "alice.pem", "locked.pem", "open sesame");
    qkey.write("secret", "secret four\n");
    qkey.configure(
        "[keys]\na.source = \"a.pem?passphrase-env=CONFIGURED\"\n\
         b.source = \"b.pem?passphrase-fd=7\"\n",
    );
    fs::create_dir_all(qkey.path("bin")).unwrap();
    for name in "openssl aws az gcloud bao vault qkey-signer-x passphrase".split(' ') {
        let text = format!("#!/bin/sh\n{CURIOUS}\nexit 1\n");
        qkey.write_program(&format!("bin/{name}"), &text);
    }
    for line in [
        "keys",
        "pubkey openssl:alice.pem",
        "pubkey awskms:///alias/a?region=r",
        "pubkey azurekms://v/k",
        "pubkey gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1",
        "pubkey hashivault://k",
        "pubkey plugin:x:y",
        "pubkey 'locked.pem?passphrase-command=passphrase'",
        "add --name=lock --key=alice.pem",
        // The second key is not opened after the first has failed.
        "replace -k lock --old-key 'locked.pem?passphrase-command=passphrase' \
            --new-key 'openssl:x?passphrase-env=TYPED%5FOUT'",
    ] {
        let _ = fs::remove_file(qkey.path("seen"));
        let run = shell::run(&qkey, &format!("PATH=$PWD/bin:$PATH; qkey {line} 7<secret"));
        let seen = fs::read_to_string(qkey.path("seen")).unwrap_or_default();
        assert!(
            seen.contains("BYSTANDER=in plain sight\n"),
            "{line}: {run:?}"
        );
        let mut secrets = vec!["CONFIGURED=", "QKEY_TOKEN=", "secret four", "descriptor 7"];
        if line.contains("TYPED%5FOUT") {
            secrets.push("TYPED_OUT=");
        }
        for secret in secrets {
            assert!(!seen.contains(secret), "{secret}: {line}: {seen}");
        }
    }
}

#[test]
fn stdin_serves_only_one_purpose() {
    assert_session!(
        with_locked_key(),
        str![[r#"
$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0'
$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0' -
$ printf x | qkey sign --key 'locked.pem?passphrase-fd=0' --challenge-file -
$ printf x | qkey sign --key 'locked.pem?passphrase-file=/dev/stdin'
--- exit 2
error: only one of the key and the challenge may be read from stdin
hint: give the challenge as an argument or with --challenge-file
$ cat locked.pem | qkey sign --key='-?passphrase-fd=0' lock-2026
$ cat locked.pem | qkey pubkey -- '-?passphrase-fd=0'
--- exit 2
error: "-?passphrase-fd=0" is not a key source: only one of the key and its passphrase may read stdin
hint: put one of them in a file
$ cat locked.pem | qkey pubkey -- '-?passphrase-file=/dev/stdin'
--- exit 2, hint as above
error: "-?passphrase-file=/dev/stdin" is not a key source: only one of the key and its passphrase may read stdin
$ printf 'open sesame' | qkey sign --key 'locked.pem?passphrase-fd=0' lock-2026 | wc -l
1

"#]]
    );
}
