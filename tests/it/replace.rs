//! `qkey replace` through the mock `qq`. Lost replies are in `transports.rs`.

use std::fs;

use crate::support::{
    ceremony::{REPLACE, submissions},
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, BOB, BOB_PUBLIC, CAROL_PUBLIC, Qkey, STRANGE_TEXTS, rounds},
    snapshot::{filtered, qkey_snapshot, session, snapshot},
};
use snapbox::str;

/// A cluster that holds alice's key as key 1.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "in the safe", ALICE_PUBLIC);
    mock
}

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    let lines = [
        &format!("{REPLACE} --dry-run"),
        REPLACE,
        REPLACE,
        "replace -k1 --old-key=alice.pem --new-key=carol.pem",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey replace -k1 --old-key=alice.pem --new-key=bob.pem --dry-run
{"action":"replace","changed":false,"dry_run":true,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"old_key":{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"challenge":"Replace key 1 version 1, name \"lock-2026\", comment \"in the safe\""}
$ qkey replace -k1 --old-key=alice.pem --new-key=bob.pem
{"action":"replace","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"old_key":{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"}}
$ qkey replace -k1 --old-key=alice.pem --new-key=bob.pem
{"action":"replace","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"old_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"}}
$ qkey replace -k1 --old-key=alice.pem --new-key=carol.pem
--- exit 4
{"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}

"#]]
    );
    assert_eq!(submissions(&mock), 1);
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = mock();
    Qkey::with_mock(&mock).line(REPLACE);
    assert_eq!(
        rounds(&mock, &[2, 1, 1]),
        [
            &[
                "fs_security_get_key_replace_challenge",
                "fs_security_list_keys"
            ][..],
            &["fs_security_replace_key"],
            &["fs_security_list_keys"]
        ]
    );
}

#[test]
fn key_flags_take_id_or_name() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    for reference in ["--key-id=lock-2026", "--key-ref=1", "-klock-2026"] {
        let run = qkey.line(&format!(
            "replace {reference} --old-key=alice.pem --new-key=bob.pem --dry-run"
        ));
        assert_eq!(run.code, 0, "{reference}: {run:?}");
    }
}

#[test]
fn useless_replacements_send_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let mut lines = vec![
        "replace -k1 --old-key=carol.pem --new-key=bob.pem".to_owned(),
        "replace -k1 --old-key=alice.pem --new-key=alice.pem".to_owned(),
        "replace -k1 --new-key=bob.pem".to_owned(),
    ];
    for key in ["lock-2062", "another", "7", "", "01", "LOCK-2026"] {
        lines.push(format!(
            "replace -k={key} --old-key=alice.pem --new-key=bob.pem"
        ));
    }
    let said = session(&qkey, lines.iter().map(String::as_str));
    snapshot!(
        said,
        str![[r#"
$ qkey replace -k1 --old-key=carol.pem --new-key=bob.pem
--- exit 4
error: carol.pem (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]
$ qkey replace -k1 --old-key=alice.pem --new-key=alice.pem
Key 1 ("lock-2026") already holds the new key.
  SHA256:[ALICE]
$ qkey replace -k1 --new-key=bob.pem
--- exit 2
error: no key given: --old-key is missing
hint: give --old-key SOURCE, or add your keys to the configuration file (`qkey config init`)
$ qkey replace -k=lock-2062 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
$ qkey replace -k=another --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key named "another"
hint: `qkey keys list` shows them all
$ qkey replace -k=7 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key with id 7
hint: `qkey keys list` shows them all
$ qkey replace -k= --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all
$ qkey replace -k=01 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key with id 01
hint: `qkey keys list` shows them all
$ qkey replace -k=LOCK-2026 --old-key=alice.pem --new-key=bob.pem
--- exit 5
error: no lock key named "LOCK-2026"
hint: `qkey keys list` shows them all

"#]]
    );
    assert_eq!(submissions(&mock), 0);
    // A repeated replacement needs no old key.
    fs::remove_file(qkey.path("alice.pem")).expect("removing a key");
    mock.set_key_field("1", "public_key", BOB_PUBLIC);
    assert_eq!(qkey.line(REPLACE).code, 0);
    mock.set_key_field("1", "public_key", "bm90IGEga2V5");
    qkey_snapshot!(
        qkey,
        REPLACE.split(' '),
        str![[r#"
--- exit 4
error: key 1 ("lock-2026") is not a P-256 key
  caused by: the public key is truncated or damaged

"#]]
    );
    assert_eq!(submissions(&mock), 0);
}

#[test]
fn odd_names_are_resolved_to_ids() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = STRANGE_TEXTS.map(|name| {
        mock.set_key_field("1", "name", name);
        mock.forget_calls();
        let keys = ["--old-key=alice.pem", "--new-key=bob.pem", "--dry-run"];
        let run = qkey.run([&["replace", "-k", name], &keys[..]].concat());
        assert_eq!(
            rounds(&mock, &[1, 1]),
            [
                ["fs_security_list_keys"],
                ["fs_security_get_key_replace_challenge"]
            ]
        );
        let first = run.stdout.lines().next().unwrap_or_default();
        format!("{first}\n{}", run.stderr)
    });
    snapshot!(
        said.concat(),
        str![[r##"
Dry run: key 1 ("two words") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 (" spaces around ") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("tab\there") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("a/b") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("../../etc") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("what?") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("#1") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("100%") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("%2e%2e") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("--key=1") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("it's \"quoted\"") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("back\\slash\\n") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("two\nlines\n") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("\u{1b}[31mred") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("Schlüssel") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("é \u{202e}right to left") can be replaced; both signatures verified, nothing sent.
Dry run: key 1 ("🔑 鍵") can be replaced; both signatures verified, nothing sent.

"##]]
    );
}

#[test]
fn key_replaced_by_someone_else_is_not_replaced_again() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *fs_security_replace_key*)
            printf %s {CAROL_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
            printf 5 >"$QQ_MOCK_STATE/keys/1/version"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).line(REPLACE);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 4
error: key 1 ("lock-2026") was replaced by someone else
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: `qkey keys list` shows what it holds now

"#]]
    );
    assert_eq!(submissions(&mock), 1);
    assert_eq!(mock.public_key("1"), CAROL_PUBLIC);
}

#[test]
fn stdin_key_is_read_once() {
    for (keys, stdin) in [
        ("--old-key=- --new-key=bob.pem", ALICE),
        ("--old-key=alice.pem --new-key=-", BOB),
    ] {
        let mock = mock();
        let line = format!("replace -k1 {keys}");
        let run = Qkey::with_mock(&mock).run_with_stdin(line.split(' '), stdin.as_bytes());
        assert_eq!(
            (run.code, mock.public_key("1").as_str()),
            (0, BOB_PUBLIC),
            "{run:?}"
        );
    }
    let mock = mock();
    let lines = ["replace -k1 --old-key=- --new-key=-"];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey replace -k1 --old-key=- --new-key=-
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files

"#]]
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn configured_key_that_matches_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey.configure(
        r#"
        [keys.spare]
        source = "../../carol.pem"
        [keys.vault]
        source = "../../alice.pem"
        "#,
    );
    qkey_snapshot!(
        qkey,
        ["replace", "-k1", "--new-key=bob.pem"],
        str![[r#"
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]

"#]]
    );
    fs::remove_file(qkey.path("carol.pem")).expect("removing a key");
    qkey_snapshot!(
        qkey,
        ["replace", "-k1", "--new-key=vault"],
        str![[r#"
--- exit 4
error: none of these keys matches key 1 ("lock-2026"): spare (../../carol.pem) (No such file or directory (os error 2)), vault (../../alice.pem) (SHA256:[ALICE…])
hint: nothing was sent; you need the private key for SHA256:[BOB…]

"#]]
    );
    assert_eq!(submissions(&mock), 1);
}

#[test]
fn disabled_key_stays_disabled_and_second_id_of_new_key_warns() {
    let mock = mock();
    mock.set_key_field("1", "disabled", "true");
    mock.add_key("other", "", BOB_PUBLIC);
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        REPLACE.split(' '),
        str![[r#"
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: the new key is also stored as key 2 ("other")

"#]]
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(mock.key_field("1", "disabled"), "true");
}
