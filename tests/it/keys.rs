//! `qkey keys` through the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, rounds},
    session::assert_session,
    snapshot::{qkey_snapshot, session, snapshot},
};
use snapbox::str;

/// Three stored keys: the second is disabled, the third is not a P-256 key.
fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "in the safe", ALICE_PUBLIC);
    mock.add_key("Schlüssel 🔑", "", BOB_PUBLIC);
    mock.set_key_field("2", "disabled", "true");
    mock.add_key("odd", "steers\u{1b}[31m\nthe terminal", "bm90IGEga2V5");
    mock.set_snapshot_field(1, "lock_key", "1");
    mock.set_snapshot_field(3, "lock_key", "1");
    mock
}

fn configured(mock: &Mock) -> Qkey {
    let qkey = Qkey::with_mock(mock);
    qkey.configure(
        r#"
        [keys.vault]
        source = "../../alice.pem"
        [keys.gone]
        source = "../../gone.pem"
        [keys.spare]
        source = "../../carol.pem"
        "#,
    );
    qkey
}

#[test]
fn stored_key_is_named_by_its_fingerprint() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_session!(
        qkey,
        str![[r#"
$ qkey keys --wide
$ qkey keys list --wide
ID  NAME          STATE     FINGERPRINT                                         CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:[ALICE]  -               in the safe
2   Schlüssel 🔑  disabled  SHA256:[BOB]  -
3   odd           enabled   (not a P-256 key)                                   -               steers\u{1b}[31m\nthe terminal
$ qkey keys show "$(qkey pubkey bob.pem --format fingerprint)"
id              2
name            Schlüssel 🔑
comment
state           disabled
fingerprint     SHA256:[BOB]
public key      [BOB]
configured key  -
$ qkey keys usage "$(qkey pubkey carol.pem --format fingerprint)"
--- exit 5
error: no lock key with the fingerprint SHA256:[CAROL]
hint: a key that was replaced has another fingerprint: `qkey keys list --wide` shows it
$ qkey replace --key-id "$(qkey pubkey alice.pem --format fingerprint)" --old-key alice.pem --new-key bob.pem
Replaced key 1 ("lock-2026").
  was SHA256:[ALICE]
  now SHA256:[BOB]
--- exit 0
warning: the new key is also stored as key 2 ("Schlüssel 🔑")
$ qkey keys show "$(qkey pubkey bob.pem --format fingerprint)"
--- exit 5
error: key 1 ("lock-2026") and key 2 ("Schlüssel 🔑") have the same public half
hint: give the key's id

"#]]
    );
}

#[test]
fn list_shows_matching_configured_keys() {
    let mock = mock();
    let qkey = configured(&mock);
    let lines = ["keys", "keys list --output=json"];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey keys
ID  NAME          STATE     FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:[ALICE…]  vault           in the safe
2   Schlüssel 🔑  disabled  SHA256:[BOB…]  -
3   odd           enabled   (not a P-256 key)    -               steers\u{1b}[31m\nthe terminal
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)
$ qkey keys list --output=json
{"keys":[{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","configured_key":"vault"},{"id":"2","name":"Schlüssel 🔑","comment":"","disabled":true,"public_key":"[BOB]","fingerprint":"SHA256:[BOB]","configured_key":null},{"id":"3","name":"odd","comment":"steers\u001b[31m\nthe terminal","disabled":false,"public_key":"bm90IGEga2V5","fingerprint":null,"configured_key":null}]}
--- exit 0
{"log":{"level":"warning","message":"skipped gone (../../gone.pem): key \"gone\": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)"}}

"#]]
    );
    assert_eq!(rounds(&mock, &[1, 1]), [["fs_security_list_keys"]; 2]);
    assert_eq!(qkey.line("keys list --quiet").stderr, "");
    // A configured key that is stored twice.
    mock.set_key_field("1", "public_key", CAROL_PUBLIC);
    mock.set_key_field("2", "public_key", CAROL_PUBLIC);
    snapshot!(
        qkey.line("keys list").stdout,
        str![[r#"
ID  NAME          STATE     FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:JSkAIR0avXSX  spare           in the safe
2   Schlüssel 🔑  disabled  SHA256:JSkAIR0avXSX  spare
3   odd           enabled   (not a P-256 key)    -               steers\u{1b}[31m\nthe terminal

"#]]
    );
}

#[test]
fn empty_key_store() {
    let mock = Mock::new();
    let lines = ["keys", "keys usage", "keys --output=json"];
    snapshot!(
        session(&Qkey::with_mock(&mock), lines),
        str![[r#"
$ qkey keys
The key store is empty.
$ qkey keys usage
The key store is empty.
$ qkey keys --output=json
{"keys":[]}

"#]]
    );
}

#[test]
fn show_takes_id_or_name() {
    let mock = mock();
    let qkey = configured(&mock);
    let lines = ["keys show 1", "keys show lock-2026 --output=json"];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey keys show 1
id              1
name            lock-2026
comment         in the safe
state           enabled
fingerprint     SHA256:[ALICE]
public key      [ALICE]
configured key  vault
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)
$ qkey keys show lock-2026 --output=json
{"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","configured_key":"vault"}}
--- exit 0
{"log":{"level":"warning","message":"skipped gone (../../gone.pem): key \"gone\": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)"}}

"#]]
    );
    let [by_flag, by_name] =
        ["keys show -k2", "keys show --key-id=odd"].map(|line| qkey.line(line));
    snapshot!(
        by_flag.stdout + &by_name.stdout,
        str![[r#"
id              2
name            Schlüssel 🔑
comment
state           disabled
fingerprint     SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
public key      MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==
configured key  -
id              3
name            odd
comment         steers\u{1b}[31m\nthe terminal
state           enabled
fingerprint     (not a P-256 key)
public key      bm90IGEga2V5
configured key  -

"#]]
    );
    qkey_snapshot!(
        Qkey::with_mock(&mock),
        ["keys", "show", "Schlüssel 🔑"],
        str![[r#"
id              2
name            Schlüssel 🔑
comment
state           disabled
fingerprint     SHA256:[BOB]
public key      [BOB]
configured key  -

"#]]
    );
    mock.set_key_field("2", "name", "e\u{202e}lif");
    let run = qkey.line("keys show 2");
    assert!(!run.stdout.contains('\u{202e}'), "{run:?}");
}

#[test]
fn unknown_key_suggests_nearest_name() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    for key in ["lock-2062", "nothing", "9", ""] {
        let [show, usage] = ["show", "usage"].map(|command| qkey.run(["keys", command, key]));
        assert_eq!(show.transcript(), usage.transcript());
    }
    let lines = [
        "keys show lock-2062",
        "keys show nothing",
        "keys show ",
        "keys show 9 --output=json",
    ];
    snapshot!(
        session(&qkey, lines),
        str![[r#"
$ qkey keys show lock-2062
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
$ qkey keys show nothing
--- exit 5
error: no lock key named "nothing"
hint: `qkey keys list` shows them all
$ qkey keys show 
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all
$ qkey keys show 9 --output=json
--- exit 5
{"error":{"kind":"refused","message":"no lock key with id 9","causes":[],"hint":"`qkey keys list` shows them all","exit_code":5}}

"#]]
    );
}

#[test]
fn show_needs_one_key() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    snapshot!(
        session(&qkey, ["keys show", "keys show 1 -k2"]),
        str![[r#"
$ qkey keys show
--- exit 2
error: specify a key id or name
hint: `qkey keys list` shows them
$ qkey keys show 1 -k2
--- exit 2
error: the argument '[ID-OR-NAME]' cannot be used with '--key-id <ID-OR-NAME>'

Usage: qkey keys show [OPTIONS] <ID-OR-NAME>

For more information, try '--help'.

"#]]
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn usage_shows_what_keys_protect() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    qkey_snapshot!(
        qkey,
        ["keys", "usage"],
        str![[r#"
key 1 ("lock-2026") protects:
  snapshot 1
  snapshot 3
key 2 ("Schlüssel 🔑") protects nothing.
key 3 ("odd") protects nothing.

"#]]
    );
    assert_eq!(rounds(&mock, &[1, 3])[1], ["fs_security_get_key_usage"; 3]);
    mock.forget_calls();
    qkey_snapshot!(
        qkey,
        ["keys", "usage", "lock-2026", "--output=json"],
        str![[r#"
{"keys":[{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","usages":[{"type":"snapshot","id":"1"},{"type":"snapshot","id":"3"}]}]}

"#]]
    );
    assert_eq!(
        rounds(&mock, &[1, 1]),
        [["fs_security_list_keys"], ["fs_security_get_key_usage"]]
    );
    let fault = "status 404 fs_no_such_entry_error There is no key 1.";
    mock.fault("fs_security_get_key_usage", fault);
    qkey_snapshot!(
        qkey,
        ["keys", "usage", "1"],
        str![[r#"
--- exit 5
error: key 1 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no key 1.
hint: `[QQ] --host=cluster fs_security_list_keys` shows what exists

"#]]
    );
}

#[test]
fn configured_key_that_cannot_be_compared_warns() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock)
        .env("RIGHT", "open sesame")
        .env("WRONG", "open barley");
    qkey.encrypt_alice();
    qkey.configure(
        r#"
        [keys.bob]
        source = "../../bob.pem"
        [keys.locked]
        source = "../../locked.pem"
        [keys.locked-open]
        source = "../../locked.pem?passphrase-env=RIGHT"
        [keys.locked-wrong]
        source = "../../locked.pem?passphrase-env=WRONG"
        "#,
    );
    qkey_snapshot!(
        qkey,
        ["keys", "list"],
        str![[r#"
ID  NAME          STATE     FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:[ALICE…]  locked-open     in the safe
2   Schlüssel 🔑  disabled  SHA256:[BOB…]  bob
3   odd           enabled   (not a P-256 key)    -               steers\u{1b}[31m\nthe terminal
--- exit 0
warning: skipped locked (../../locked.pem): it would need a passphrase or a PIN
warning: skipped locked-wrong (../../locked.pem?passphrase-env=WRONG): key "locked-wrong": cannot use the key file [DIR]/.config/qkey/../../locked.pem: wrong passphrase

"#]]
    );
}
