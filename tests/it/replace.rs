//! `qkey replace` against the mock `qq`.

use std::fs;

use crate::support::{
    mock::Mock,
    qkey::{
        ALICE, ALICE_PUBLIC, BOB, BOB_PUBLIC, CAROL_PUBLIC, LOSSES, Qkey, STRANGE_TEXTS,
        expect_no_sleepers, rounds, side_by_side, timeout_for,
    },
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
fn a_key_is_replaced_and_then_already_so() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(REPLACE).transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_data_eq!(
        qkey.run(REPLACE).transcript(),
        str![[r#"
exit 0
--- stdout
The cluster holds the new key as key 1 ("lock-2026") already: nothing to do.
  SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 1);
}

#[test]
fn json_says_what_was_done_would_be_done_or_failed() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock).env("QKEY_OUTPUT", "json");
    assert_data_eq!(qkey.run(with(&["--dry-run"])).transcript(), str![[r#"
exit 0
--- stdout
{"action":"replace","changed":false,"dry_run":true,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"},"old_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"},"new_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"},"challenge":"Replace key 1 version 1, name \"lock-2026\", comment \"in the safe\""}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(REPLACE).transcript(), str![[r#"
exit 0
--- stdout
{"action":"replace","changed":true,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"},"old_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"},"new_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"}}
--- stderr

"#]].raw());
    assert_data_eq!(qkey.run(REPLACE).transcript(), str![[r#"
exit 0
--- stdout
{"action":"replace","changed":false,"dry_run":false,"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"},"old_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"},"new_key":{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s"}}
--- stderr

"#]].raw());
    let wrong = [
        "replace",
        "-k1",
        "--old-key=alice.pem",
        "--new-key=carol.pem",
    ];
    assert_data_eq!(qkey.run(wrong).transcript(), str![[r#"
exit 4
--- stdout
--- stderr
{"error":{"kind":"mismatch","message":"alice.pem (SHA256:qDNOdPfn/SvG) is not the key that the cluster holds as key 1 (\"lock-2026\")","causes":[],"hint":"nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here","exit_code":4}}

"#]].raw());
}

#[test]
fn a_dry_run_replaces_nothing() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(with(&["--dry-run"])).transcript(),
        str![[r#"
exit 0
--- stdout
Would replace key 1 ("lock-2026"); both signatures were checked and nothing was sent.
  is SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  to SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
  challenge: "Replace key 1 version 1, name \"lock-2026\", comment \"in the safe\""
--- stderr

"#]]
        .raw()
    );
    assert_eq!(
        rounds(&mock, &[2]),
        [[
            "fs_security_get_key_replace_challenge",
            "fs_security_list_keys"
        ]]
    );
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}

#[test]
fn three_rounds_of_qq_are_all_it_takes() {
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
fn a_key_goes_by_its_id_or_its_name_under_each_flag() {
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
fn an_old_key_that_is_not_the_stored_one_is_not_used() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run(["replace", "-k1", "--old-key=carol.pem", "--new-key=bob.pem"]);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: carol.pem (SHA256:JSkAIR0avXSX) is not the key that the cluster holds as key 1 ("lock-2026")
hint: nothing was sent; the cluster holds SHA256:qDNOdPfn/SvG, and only its private half can sign here

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 0);
    assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
}

#[test]
fn what_is_done_already_needs_no_old_key() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    fs::remove_file(qkey.path("alice.pem")).expect("removing a key");
    assert_eq!(qkey.run(REPLACE).code, 0);
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn a_key_is_not_replaced_by_itself() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let run = qkey.run([
        "replace",
        "-k1",
        "--old-key=alice.pem",
        "--new-key=alice.pem",
    ]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
The cluster holds the new key as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn a_key_that_is_not_stored_is_told_with_the_nearest_name() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["lock-2062", "another", "7", "", "01", "LOCK-2026"].map(|key| {
        let run = qkey.run([
            "replace",
            &format!("--key-id={key}"),
            "--old-key=alice.pem",
            "--new-key=bob.pem",
        ]);
        format!("==== {key}\n{}", run.transcript())
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== lock-2062
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows what it holds
==== another
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name "another"
hint: `qkey keys list` shows what it holds
==== 7
exit 5
--- stdout
--- stderr
error: the key store holds no key with the id 7
hint: `qkey keys list` shows what it holds
==== 
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name ""
hint: `qkey keys list` shows what it holds
==== 01
exit 5
--- stdout
--- stderr
error: the key store holds no key with the id 01
hint: `qkey keys list` shows what it holds
==== LOCK-2026
exit 5
--- stdout
--- stderr
error: the key store holds no key with the name "LOCK-2026"
hint: `qkey keys list` shows what it holds

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn a_name_that_no_url_carries_is_replaced_by_its_id() {
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
fn a_challenge_is_signed_byte_for_byte() {
    let long = "x".repeat(10_000);
    let more = [
        " ",
        "\n",
        "\r\n",
        "ends in spaces   ",
        "ends in a line ending\n",
        "\t\"\\\" \\n '\0x",
        "\u{feff}with a BOM",
        &long,
    ];
    let challenges = [&STRANGE_TEXTS[..], &more[..]].concat();
    side_by_side(&challenges, |challenge| {
        let mock = mock();
        mock.set_challenge(challenge.as_bytes());
        let run = Qkey::with_mock(&mock).run(REPLACE);
        assert_eq!(run.code, 0, "{challenge:?}: {run:?}");
        assert_eq!(mock.public_key("1"), BOB_PUBLIC);
        String::new()
    });
}

#[test]
fn a_challenge_that_is_none_is_not_signed() {
    let said = [&b""[..], b"not UTF-8: \xff"].map(|challenge| {
        let mock = mock();
        mock.set_challenge(challenge);
        let run = Qkey::with_mock(&mock).run(REPLACE);
        assert_eq!(mock.count("fs_security_replace_key"), 0);
        run.transcript()
    });
    assert_data_eq!(said.concat(), str![[r#"
exit 7
--- stdout
--- stderr
error: unexpected reply from cluster:8000 to the request to get the challenge to replace key "lock-2026"
  caused by: expected a challenge in JSON, got: {     "challenge": "" }
hint: check that `[QQ] --host=cluster fs_security_get_key_replace_challenge --help` works; if it does, run this again with -vv and report the output
exit 7
--- stdout
--- stderr
error: unexpected reply from cluster:8000 to the request to get the challenge to replace key "lock-2026"
  caused by: expected a challenge in JSON, got: {     "challenge": "not UTF-8: �" }
hint: check that `[QQ] --host=cluster fs_security_get_key_replace_challenge --help` works; if it does, run this again with -vv and report the output

"#]].raw());
}

#[test]
fn a_challenge_that_went_stale_once_is_signed_anew() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "stale");
    let run = Qkey::with_mock(&mock).run(REPLACE);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(
        rounds(&mock, &[2, 1, 2, 1, 1])[2],
        [
            "fs_security_get_key_replace_challenge",
            "fs_security_list_keys"
        ]
    );
}

#[test]
fn a_challenge_that_always_goes_stale_is_given_up() {
    let said = [
        "--attempts=1",
        "--attempts=2",
        "--attempts=3",
        "--attempts=0",
    ]
    .map(|attempts| {
        let mock = mock();
        mock.fault("fs_security_replace_key", "always stale");
        let run = Qkey::with_mock(&mock).run(with(&[attempts]));
        assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
        let submissions = mock.count("fs_security_replace_key");
        format!("==== {attempts}: {submissions}\n{}", run.transcript())
    });
    assert_data_eq!(said.concat(), str![[r#"
==== --attempts=1: 1
exit 5
--- stdout
--- stderr
error: the challenge changed before the submission
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts
==== --attempts=2: 2
exit 5
--- stdout
--- stderr
error: the challenge changed before each of 2 submissions
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts
==== --attempts=3: 3
exit 5
--- stdout
--- stderr
error: the challenge changed before each of 3 submissions
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: something keeps changing it (a name, a comment, an expiration); run this again, or give more --attempts
==== --attempts=0: 0
exit 2
--- stdout
--- stderr
error: invalid value '0' for '--attempts <N>': 0 is not in 1..=4294967295

For more information, try '--help'.

"#]].raw());
}

#[test]
fn a_refusal_of_a_challenge_that_still_holds_stands() {
    let said = side_by_side(
        &[
            "status 400 invalid_request_error The signature is not to my liking.",
            "status 403 privilege_error You are not allowed to.",
            "unauthenticated",
            "refused-connection",
        ],
        |fault| {
            let mock = mock();
            mock.fault("fs_security_replace_key", fault);
            let run = Qkey::with_mock(&mock).run(REPLACE);
            assert_eq!(mock.count("fs_security_replace_key"), 1);
            assert_eq!(mock.public_key("1"), ALICE_PUBLIC);
            run.transcript()
        },
    );
    assert_data_eq!(said, str![[r#"
==== status 400 invalid_request_error The signature is not to my liking.
exit 5
--- stdout
--- stderr
error: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The signature is not to my liking.
hint: nothing was changed; fix what the cluster reports, then run this again; the cluster now holds a signature made with alice.pem over its challenge
==== status 403 privilege_error You are not allowed to.
exit 6
--- stdout
--- stderr
error: cluster:8000 denied permission to replace key 1
  caused by: Error 403: privilege_error: You are not allowed to.
hint: log in as a user whose role includes PRIVILEGE_FS_KEY_MANAGEMENT_WRITE; role changes take effect at the next login; the cluster now holds a signature made with alice.pem over its challenge
==== unauthenticated
exit 6
--- stdout
--- stderr
error: not logged in to cluster:8000
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `[QQ] --host=cluster login -u USER`; the cluster now holds a signature made with alice.pem over its challenge
==== refused-connection
exit 7
--- stdout
--- stderr
error: cannot reach cluster:8000: [Errno 111] Connection refused
hint: check --host and --port (or the cluster's entry in the configuration file), and the network

"#]].raw());
}

#[test]
fn a_lost_answer_is_looked_up_and_never_asked_for_again() {
    let said = side_by_side(&LOSSES, |fault| {
        let mock = mock();
        mock.fault("fs_security_replace_key", fault);
        let run = Qkey::with_mock(&mock).run(with(&[timeout_for(fault)]));
        assert_eq!(mock.count("fs_security_replace_key"), 1, "{fault}");
        let expected = if run.code == 0 {
            BOB_PUBLIC
        } else {
            ALICE_PUBLIC
        };
        assert_eq!(mock.public_key("1"), expected, "{fault}");
        expect_no_sleepers(&mock);
        run.transcript()
    });
    assert_data_eq!(said, str![[r#"
==== drop-before
exit 8
--- stdout
--- stderr
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to replace key 1: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== drop-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: no reply to the request to replace key 1 ("lock-2026") (lost the connection to cluster:8000 during the request to replace key 1: Remote end closed connection without response); checked: it was done
==== timeout-before
exit 8
--- stdout
--- stderr
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: lost the connection to cluster:8000 during the request to replace key 1: The read operation timed out
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== timeout-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: no reply to the request to replace key 1 ("lock-2026") (lost the connection to cluster:8000 during the request to replace key 1: The read operation timed out); checked: it was done
==== traceback
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to replace key 1
  caused by: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== traceback-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: qumulo.lib.request.APIException: Error loading data: Expecting value: line 1 column 1 (char 0)); checked: it was done
==== garbage
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to replace key 1
  caused by: expected the key in JSON, got: <html> This is not what you are looking for.
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== garbage-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: <html> This is not what you are looking for.); checked: it was done
==== empty
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: unexpected reply from cluster:8000 to the request to replace key 1
  caused by: expected the key in JSON, got: (nothing)
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== empty-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: (nothing)); checked: it was done
==== truncated
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: unexpected reply to the request to replace key 1 ("lock-2026") (unexpected reply from cluster:8000 to the request to replace key 1: expected the key in JSON, got: {     "comment": "in the safe",     "disabled": false,     "id": "1",     "name": "lock-2026",     "public_key": "MFkwEw…); checked: it was done
==== kill-9
exit 8
--- stdout
--- stderr
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[QQ]` was killed by signal 9
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== kill-9-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: no reply to the request to replace key 1 ("lock-2026") (qq failed to replace key 1: `[QQ]` was killed by signal 9); checked: it was done
==== hang
exit 8
--- stdout
--- stderr
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[QQ]` did not finish within 4 s and was killed
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== hang-after
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: no reply to the request to replace key 1 ("lock-2026") (qq failed to replace key 1: `[QQ]` did not finish within 4 s and was killed); checked: it was done
==== huge
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: the reply from cluster:8000 is too large: the reply is larger than 256 KiB
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== exit 3 something odd
exit 8
--- stdout
--- stderr
error: no reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: qq failed to replace key 1
  caused by: `[QQ]` exited with 3: something odd
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first
==== status 500 internal_error It broke.
exit 5
--- stdout
--- stderr
error: the cluster failed to process the request to replace key 1 ("lock-2026"); checked: it was not done
  caused by: cluster:8000 failed to replace key 1
  caused by: Error 500: internal_error: It broke.
hint: check the cluster's health, then run this again; `[QQ] --host=cluster fs_security_list_keys` shows what it holds
==== status 503 busy_error Try again later.
exit 8
--- stdout
--- stderr
error: unexpected reply to the request to replace key 1 ("lock-2026"): not done so far, and may still be
  caused by: cluster:8000 failed to replace key 1
  caused by: Error 503: busy_error: Try again later.
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
}

#[test]
fn an_outcome_that_nobody_can_see_is_unknown() {
    let mock = mock();
    mock.fault("fs_security_replace_key", "timeout-after");
    mock.fault("fs_security_list_keys", "");
    mock.fault(
        "fs_security_list_keys",
        "always status 503 busy_error Later.",
    );
    let run = Qkey::with_mock(&mock).run(REPLACE);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to replace key 1 ("lock-2026") was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to replace key 1: The read operation timed out
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 1);
}

#[test]
fn a_third_key_after_a_lost_answer_is_told() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *fs_security_replace_key*)
            printf %s {CAROL_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
            echo 'Connection error: The read operation timed out' >&2
            exit 1
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(REPLACE);
    assert_data_eq!(run.transcript(), str![[r#"
exit 8
--- stdout
--- stderr
error: the request to replace key 1 ("lock-2026") was sent, and now key 1 ("lock-2026") holds a third key
  caused by: lost the connection to cluster:8000 during the request to replace key 1: The read operation timed out
hint: somebody else may be making changes; `[DIR]/qq-between --host=cluster fs_security_list_keys` shows what the cluster holds

"#]].raw());
}

#[test]
fn a_key_that_another_replaced_meanwhile_is_not_tried_again() {
    let mock = mock();
    let hook = format!(
        r#"case "$*" in *fs_security_replace_key*)
            printf %s {CAROL_PUBLIC} >"$QQ_MOCK_STATE/keys/1/public_key"
            printf 5 >"$QQ_MOCK_STATE/keys/1/version"
        esac"#
    );
    let run = Qkey::with_mock(&mock).between(&mock, &hook).run(REPLACE);
    assert_data_eq!(run.transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: somebody else has replaced key 1 ("lock-2026")
  caused by: cluster:8000 refused to replace key 1
  caused by: Error 400: invalid_request_error: The old key verification signature does not match the challenge.
hint: `qkey keys list` shows what it holds now

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 1);
    assert_eq!(mock.public_key("1"), CAROL_PUBLIC);
}

#[test]
fn a_key_is_read_from_stdin_once() {
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
        run.transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: two keys, or a key and a passphrase, are to be read from stdin
hint: stdin can be read once; put one of them into a file

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
fn the_configured_key_that_is_the_stored_one_signs() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey.configure(&CONFIGURED.replace("= \"", "= \"../../"));
    let replace = ["replace", "-k1", "--new-key=bob.pem"];
    assert_data_eq!(
        qkey.run(replace).transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr

"#]]
        .raw()
    );
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn configured_keys_of_which_none_is_the_stored_one_are_listed() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", BOB_PUBLIC);
    let qkey = Qkey::with_mock(&mock);
    qkey.configure(&CONFIGURED.replace("= \"", "= \"../../"));
    fs::remove_file(qkey.path("carol.pem")).expect("removing a key");
    let replace = ["replace", "-k1", "--new-key=vault"];
    assert_data_eq!(qkey.run(replace).transcript(), str![[r#"
exit 4
--- stdout
--- stderr
error: none of these is the key that the cluster holds as key 1 ("lock-2026"): spare (../../carol.pem) (No such file or directory (os error 2)), vault (../../alice.pem) (SHA256:qDNOdPfn/SvG)
hint: nothing was sent; the cluster holds SHA256:Bigzvx05JkuL, and only its private half can sign here

"#]].raw());
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn without_any_old_key_the_way_to_name_one_is_shown() {
    let mock = mock();
    let run = Qkey::with_mock(&mock).run(["replace", "-k1", "--new-key=bob.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 2
--- stdout
--- stderr
error: no key is named: --old-key is missing
hint: give --old-key SOURCE, or name your keys in the configuration file (`qkey config init`)

"#]]
        .raw()
    );
}

#[test]
fn a_disabled_key_is_replaced_and_stays_disabled() {
    let mock = mock();
    mock.set_key_field("1", "disabled", "true");
    assert_eq!(Qkey::with_mock(&mock).run(REPLACE).code, 0);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
    assert_eq!(mock.key_field("1", "disabled"), "true");
}

#[test]
fn a_new_key_that_is_stored_elsewhere_is_warned_of() {
    let mock = mock();
    mock.add_key("other", "", BOB_PUBLIC);
    let run = Qkey::with_mock(&mock).run(REPLACE);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 0
--- stdout
Replaced key 1 ("lock-2026").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- stderr
warning: the new key is also stored as key 2 ("other")

"#]]
        .raw()
    );
}

#[test]
fn a_stored_key_of_another_kind_is_told() {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", "bm90IGEga2V5");
    let run = Qkey::with_mock(&mock).run(REPLACE);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
exit 4
--- stdout
--- stderr
error: key 1 ("lock-2026") is not a P-256 key that could be compared
  caused by: the public key is cut short or damaged

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}
