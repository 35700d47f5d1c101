//! `qkey replace` against the mock `qq`.

use std::fs;

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB, BOB_PUBLIC, CAROL_PUBLIC, Qkey, STRANGE_TEXTS, rounds,
        side_by_side,
    },
    snapshot::{filtered, qkey_snapshot},
};
use snapbox::{IntoData, assert_data_eq, str};

const REPLACE: [&str; 7] = [
    "replace",
    "--key-id",
    "lock-2026",
    "--old-key",
    "alice.pem",
    "--new-key",
    "bob.pem",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&REPLACE[..], more].concat()
}

/// A cluster that holds Alice's key as key 1.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "in the safe", ALICE_PUBLIC);
    mock
}

#[test]
fn json_for_dry_run_change_no_change_and_failure() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    qkey_snapshot!(
        qkey,
        with(&["--dry-run"]),
        str![[r#"
{"action":"replace","changed":false,"dry_run":true,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"old_key":{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"challenge":"Replace key 1 version 1, name \"lock-2026\", comment \"in the safe\""}

"#]]
    );
    qkey_snapshot!(
        qkey,
        REPLACE,
        str![[r#"
{"action":"replace","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"old_key":{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"}}

"#]]
    );
    qkey_snapshot!(
        qkey,
        REPLACE,
        str![[r#"
{"action":"replace","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"old_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"},"new_key":{"public_key":"[BOB]","fingerprint":"SHA256:[BOB]"}}

"#]]
    );
    let wrong = [
        "replace",
        "-k1",
        "--old-key=alice.pem",
        "--new-key=carol.pem",
    ];
    qkey_snapshot!(
        qkey,
        wrong,
        str![[r#"
--- exit 4
{"error":{"kind":"mismatch","message":"alice.pem (SHA256:[ALICE…]) does not match key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; you need the private key for SHA256:[BOB…]","exit_code":4}}

"#]]
    );
}

#[test]
fn runs_three_rounds_of_qq() {
    let mock = mock();
    Qkey::with_mock(&mock).run(REPLACE);
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
    for reference in [
        "--key-id=1",
        "--key-id=lock-2026",
        "--key-ref=1",
        "--key-ref=lock-2026",
        "-k1",
        "-klock-2026",
    ] {
        let mock = mock();
        let run = Qkey::with_mock(&mock).run([
            "replace",
            reference,
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        assert_eq!(run.code, 0, "{reference}: {run:?}");
        assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    }
}

#[test]
fn wrong_old_key_exits_4_and_sends_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        ["replace", "-k1", "--old-key=carol.pem", "--new-key=bob.pem"],
        str![[r#"
--- exit 4
error: carol.pem (SHA256:[CAROL…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}

#[test]
fn repeated_replacement_needs_no_old_key() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    fs::remove_file(qkey.path("alice.pem")).expect("removing a key");
    assert_eq!(qkey.run(REPLACE).code, 0);
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn replacement_by_itself_changes_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        [
            "replace",
            "-k1",
            "--old-key=alice.pem",
            "--new-key=alice.pem",
        ],
        str![[r#"
Key 1 ("lock-2026") already holds the new key.
  SHA256:[ALICE]

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn unknown_key_suggests_nearest_name() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["lock-2062", "another", "7", "", "01", "LOCK-2026"].map(|key| {
        let run = qkey.run([
            "replace",
            &format!("--key-id={key}"),
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        format!("==== {key}\n{}", filtered(&run))
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== lock-2062
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
==== another
--- exit 5
error: no lock key named "another"
hint: `qkey keys list` shows them all
==== 7
--- exit 5
error: no lock key with id 7
hint: `qkey keys list` shows them all
==== 
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all
==== 01
--- exit 5
error: no lock key with id 01
hint: `qkey keys list` shows them all
==== LOCK-2026
--- exit 5
error: no lock key named "LOCK-2026"
hint: `qkey keys list` shows them all

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn odd_names_are_resolved_to_ids() {
    let said = side_by_side(&STRANGE_TEXTS, |name| {
        let mock = Mock::new();
        mock.add_key(name, "", ALICE_PUBLIC);
        let qkey = Qkey::with_mock(&mock);
        let run = qkey.run([
            "replace",
            "--key-id",
            name,
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        assert_eq!(mock.public_key("1"), BOB_PUBLIC, "{name}: {run:?}");
        assert_eq!(
            rounds(&mock, &[1, 1, 1, 1]),
            [
                ["fs_security_list_keys"],
                ["fs_security_get_key_replace_challenge"],
                ["fs_security_replace_key"],
                ["fs_security_list_keys"]
            ]
        );
        run.stdout.lines().next().unwrap_or_default().to_owned() + "\n" + &run.stderr
    });
    assert_data_eq!(
        said,
        str![[r##"
==== two words
Replaced key 1 ("two words").
====  spaces around 
Replaced key 1 (" spaces around ").
==== tab\there
Replaced key 1 ("tab\there").
==== a/b
Replaced key 1 ("a/b").
==== ../../etc
Replaced key 1 ("../../etc").
==== what?
Replaced key 1 ("what?").
==== #1
Replaced key 1 ("#1").
==== 100%
Replaced key 1 ("100%").
==== %2e%2e
Replaced key 1 ("%2e%2e").
==== --key=1
Replaced key 1 ("--key=1").
==== it\'s \"quoted\"
Replaced key 1 ("it's \"quoted\"").
==== back\\slash\\n
Replaced key 1 ("back\\slash\\n").
==== two\nlines\n
Replaced key 1 ("two\nlines\n").
==== \u{1b}[31mred
Replaced key 1 ("\u{1b}[31mred").
==== Schlüssel
Replaced key 1 ("Schlüssel").
==== é \u{202e}right to left
Replaced key 1 ("é \u{202e}right to left").
==== 🔑 鍵
Replaced key 1 ("🔑 鍵").

"##]]
        .raw()
    );
}

#[test]
fn third_key_after_lost_reply_exits_8() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *fs_security_replace_key*)
            printf %s {CAROL_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
            echo 'Connection error: The read operation timed out' >&2
            exit 1
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(REPLACE);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 8
error: the request to replace key 1 ("lock-2026") was sent, and now key 1 ("lock-2026") holds a third key
  caused by: lost the connection to cluster:8000 during the request to replace key 1: The read operation timed out
hint: someone else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds

"#]].raw());
}

#[test]
fn key_replaced_by_another_admin_is_not_retried() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *fs_security_replace_key*)
            printf %s {CAROL_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
            printf 5 >"$QQ_MOCK_STATE/keys/1/version"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(REPLACE);
    assert_data_eq!(filtered(&run), str![[r#"
--- exit 4
error: key 1 ("lock-2026") was replaced by someone else
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: `qkey keys list` shows what it holds now

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 1);
    assert_eq!(mock.public_key("1"), CAROL_PUBLIC);
}

#[test]
fn stdin_key_is_read_once() {
    let qkeys = [
        ["replace", "-k1", "--old-key=-", "--new-key=bob.pem"],
        ["replace", "-k1", "--old-key=alice.pem", "--new-key=-"],
    ];
    for (args, key) in qkeys.iter().zip([ALICE, BOB]) {
        let mock = mock();
        let run = Qkey::with_mock(&mock).run_with_stdin(args, key.as_bytes());
        assert_eq!(run.code, 0, "{run:?}");
        assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    }
    let mock = mock();
    let twice = ["replace", "-k1", "--old-key=-", "--new-key=-"];
    let run = Qkey::with_mock(&mock).run_with_stdin(twice, ALICE.as_bytes());
    assert_data_eq!(
        filtered(&run),
        str![[r#"
--- exit 2
error: only one key or passphrase may be read from stdin
hint: save the others to files

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
}

const CONFIGURED: &str = r#"
[keys.spare]
source = "carol.pem"
[keys.vault]
source = "alice.pem"
"#;

#[test]
fn configured_key_that_matches_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey.configure(&CONFIGURED.replace("= \"", "= \"../../"));
    let replace = ["replace", "-k1", "--new-key=bob.pem"];
    qkey_snapshot!(
        qkey,
        replace,
        str![[r#"
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]

"#]]
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn configured_keys_without_match_are_listed() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    qkey.configure(&CONFIGURED.replace("= \"", "= \"../../"));
    fs::remove_file(qkey.path("carol.pem")).expect("removing a key");
    let replace = ["replace", "-k1", "--new-key=vault"];
    qkey_snapshot!(
        qkey,
        replace,
        str![[r#"
--- exit 4
error: none of these keys matches key 1 ("lock-2026"): spare (../../carol.pem) (No such file or directory (os error 2)), vault (../../alice.pem) (SHA256:[ALICE…])
hint: nothing was sent; you need the private key for SHA256:[BOB…]

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn missing_old_key_hints_at_configuration() {
    let mock = mock();
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        ["replace", "-k1", "--new-key=bob.pem"],
        str![[r#"
--- exit 2
error: no key given: --old-key is missing
hint: give --old-key SOURCE, or add your keys to the configuration file (`qkey config init`)

"#]]
    );
}

#[test]
fn disabled_key_stays_disabled_after_replacement() {
    let mock = mock();
    mock.set_key_field("1", "disabled", "true");
    assert_eq!(Qkey::with_mock(&mock).run(REPLACE).code, 0);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(mock.key_field("1", "disabled"), "true");
}

#[test]
fn new_key_stored_under_another_id_warns() {
    let mock = mock();
    mock.add_key("other", "", BOB_PUBLIC);
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        REPLACE,
        str![[r#"
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: the new key is also stored as key 2 ("other")

"#]]
    );
}

#[test]
fn stored_key_of_another_algorithm_is_reported() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", "bm90IGEga2V5");
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        REPLACE,
        str![[r#"
--- exit 4
error: key 1 ("lock-2026") is not a P-256 key
  caused by: the public key is truncated or damaged

"#]]
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}
