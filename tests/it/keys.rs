//! `qkey keys` against the mock `qq`.

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, rounds},
    shell::prints,
};
use snapbox::{IntoData, assert_data_eq, str};

/// Three stored keys, of which the second is disabled; the third is none of P-256.
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
fn a_list_shows_which_configured_key_is_which() {
    let mock = mock();
    let qkey = configured(&mock);
    assert_data_eq!(
        qkey.run(["keys"]).transcript(),
        str![[r#"
ID  NAME          STATE     FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:qDNOdPfn/SvG  vault           in the safe
2   Schlüssel 🔑  disabled  SHA256:Bigzvx05JkuL  -
3   odd           enabled   (not a P-256 key)    -               steers\u{1b}[31m\nthe terminal
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)

"#]]
        .raw()
    );
    assert_eq!(qkey.run(["keys", "list"]).stdout, qkey.run(["keys"]).stdout);
    assert_eq!(rounds(&mock, &[1, 1, 1]), [["fs_security_list_keys"]; 3]);
}

#[test]
fn a_list_in_json_is_one_object() {
    let mock = mock();
    let run = configured(&mock).run(["keys", "list", "--output=json"]);
    assert_data_eq!(run.transcript(), str![[r#"
{"keys":[{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","configured_key":"vault"},{"id":"2","name":"Schlüssel 🔑","comment":"","disabled":true,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==","fingerprint":"SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s","configured_key":null},{"id":"3","name":"odd","comment":"steers\u001b[31m\nthe terminal","disabled":false,"public_key":"bm90IGEga2V5","fingerprint":null,"configured_key":null}]}
--- exit 0
{"log":{"level":"warning","message":"skipped gone (../../gone.pem): key \"gone\": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)"}}

"#]].raw());
}

#[test]
fn an_empty_key_store_is_said_to_be_empty() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(["keys"]).transcript(),
        str![[r#"
The key store is empty.

"#]]
        .raw()
    );
    assert_data_eq!(
        qkey.run(["keys", "usage"]).transcript(),
        str![[r#"
The key store is empty.

"#]]
        .raw()
    );
    let run = qkey.run(["keys", "--output", "json"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
{"keys":[]}

"#]]
        .raw()
    );
}

#[test]
fn one_key_is_shown_by_id_or_name() {
    let mock = mock();
    let qkey = configured(&mock);
    assert_data_eq!(qkey.run(["keys", "show", "1"]).transcript(), str![[r#"
id              1
name            lock-2026
comment         in the safe
state           enabled
fingerprint     SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
public key      MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
configured key  vault
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)

"#]].raw());
    let by_name = qkey.run(["keys", "show", "--key-id", "lock-2026"]);
    assert_eq!(by_name.stdout, qkey.run(["keys", "show", "-k1"]).stdout);
    let run = qkey.run(["keys", "show", "Schlüssel 🔑"]);
    assert_data_eq!(run.transcript(), str![[r#"
id              2
name            Schlüssel 🔑
comment
state           disabled
fingerprint     SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
public key      MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEOIU028PmcXIypVonr+7grS94GTjKdWfDqV86wpdV8UG43vb97CJQ+d+E2roTm9c7MKsPowcCbPlapLeWT05TtA==
configured key  -
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)

"#]].raw());
}

#[test]
fn nothing_that_the_cluster_holds_steers_the_terminal() {
    let mock = mock();
    mock.set_key_field("2", "name", "e\u{202e}lif");
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(["keys", "show", "odd"]).transcript(),
        str![[r#"
id              3
name            odd
comment         steers\u{1b}[31m\nthe terminal
state           enabled
fingerprint     (not a P-256 key)
public key      bm90IGEga2V5
configured key  -

"#]]
        .raw()
    );
    let run = qkey.run(["keys", "show", "2"]);
    assert!(!run.stdout.contains('\u{202e}'), "{run:?}");
}

#[test]
fn one_key_is_shown_in_json() {
    let mock = mock();
    let run = configured(&mock).run(["keys", "show", "1", "--output=json"]);
    assert_data_eq!(run.transcript(), str![[r#"
{"key":{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","configured_key":"vault"}}
--- exit 0
{"log":{"level":"warning","message":"skipped gone (../../gone.pem): key \"gone\": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)"}}

"#]].raw());
}

#[test]
fn a_key_that_is_not_stored_is_told_with_the_nearest_name() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    let said = ["lock-2062", "nothing alike", "9", ""].map(|key| {
        let show = qkey.run(["keys", "show", key]);
        let usage = qkey.run(["keys", "usage", key]);
        assert_eq!(show.transcript(), usage.transcript());
        format!("==== {key}\n{}", show.transcript())
    });
    assert_data_eq!(
        said.concat(),
        str![[r#"
==== lock-2062
--- exit 5
error: no lock key named "lock-2062"
hint: did you mean "lock-2026"? `qkey keys list` shows them all
==== nothing alike
--- exit 5
error: no lock key named "nothing alike"
hint: `qkey keys list` shows them all
==== 9
--- exit 5
error: no lock key with id 9
hint: `qkey keys list` shows them all
==== 
--- exit 5
error: no lock key named ""
hint: `qkey keys list` shows them all

"#]]
        .raw()
    );
    let run = qkey.run(["keys", "show", "9", "--output=json"]);
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 5
{"error":{"kind":"refused","message":"no lock key with id 9","causes":[],"hint":"`qkey keys list` shows them all","exit_code":5}}

"#]].raw());
}

#[test]
fn show_needs_a_key_and_takes_one() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(["keys", "show"]).transcript(),
        str![[r#"
--- exit 2
error: specify a key id or name
hint: `qkey keys list` shows them

"#]]
        .raw()
    );
    let run = qkey.run(["keys", "show", "1", "-k2"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 2
error: the argument '[ID-OR-NAME]' cannot be used with '--key-id <ID-OR-NAME>'

Usage: qkey keys show [OPTIONS] <ID-OR-NAME>

For more information, try '--help'.

"#]]
        .raw()
    );
    assert!(mock.calls().is_empty());
}

#[test]
fn usage_shows_what_a_key_protects() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        qkey.run(["keys", "usage"]).transcript(),
        str![[r#"
key 1 ("lock-2026") protects:
  snapshot 1
  snapshot 3
key 2 ("Schlüssel 🔑") protects nothing.
key 3 ("odd") protects nothing.

"#]]
        .raw()
    );
    assert_eq!(rounds(&mock, &[1, 3])[1], ["fs_security_get_key_usage"; 3]);
    mock.forget_calls();
    assert_data_eq!(
        qkey.run(["keys", "usage", "lock-2026", "--output=json"]).transcript(),
        str![[r#"
{"keys":[{"id":"1","name":"lock-2026","comment":"in the safe","disabled":false,"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","usages":[{"type":"snapshot","id":"1"},{"type":"snapshot","id":"3"}]}]}

"#]].raw()
    );
    assert_eq!(
        rounds(&mock, &[1, 1]),
        [["fs_security_list_keys"], ["fs_security_get_key_usage"]]
    );
}

#[test]
fn a_configured_key_that_is_stored_twice_is_shown_twice() {
    let mock = Mock::new();
    mock.add_key("a", "", CAROL_PUBLIC);
    mock.add_key("b", "", CAROL_PUBLIC);
    let run = configured(&mock).run(["keys"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
ID  NAME  STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   a     enabled  SHA256:JSkAIR0avXSX  spare
2   b     enabled  SHA256:JSkAIR0avXSX  spare
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)

"#]]
        .raw()
    );
}

#[test]
fn a_failure_of_the_cluster_is_told() {
    let mock = mock();
    mock.fault(
        "fs_security_get_key_usage",
        "status 404 fs_no_such_entry_error There is no key 1.",
    );
    let run = Qkey::with_mock(&mock).run(["keys", "usage", "1"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 5
error: key 1 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no key 1.
hint: `[QQ] --host=cluster fs_security_list_keys` shows what exists

"#]]
        .raw()
    );
}

#[test]
fn a_configured_key_that_could_not_be_compared_is_warned_of() {
    let mock = mock();
    let qkey = Qkey::with_mock(&mock)
        .env("RIGHT", "open sesame")
        .env("WRONG", "open barley");
    qkey.write("pass.tmp", "open sesame");
    prints(
        &qkey,
        "openssl pkcs8 -topk8 -v2 aes-256-cbc -in alice.pem -passout file:pass.tmp -out locked.pem
         chmod 600 locked.pem; rm pass.tmp",
    );
    qkey.configure(
        r#"
        [keys.bob]
        source = "../../bob.pem"
        [keys.gone]
        source = "../../gone.pem"
        [keys.locked]
        source = "../../locked.pem"
        [keys.locked-open]
        source = "../../locked.pem?passphrase-env=RIGHT"
        [keys.locked-wrong]
        source = "../../locked.pem?passphrase-env=WRONG"
        "#,
    );
    assert_data_eq!(qkey.run(["keys", "list"]).transcript(), str![[r#"
ID  NAME          STATE     FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock-2026     enabled   SHA256:qDNOdPfn/SvG  locked-open     in the safe
2   Schlüssel 🔑  disabled  SHA256:Bigzvx05JkuL  bob
3   odd           enabled   (not a P-256 key)    -               steers\u{1b}[31m\nthe terminal
--- exit 0
warning: skipped gone (../../gone.pem): key "gone": cannot read the key file [DIR]/.config/qkey/../../gone.pem: No such file or directory (os error 2)
warning: skipped locked (../../locked.pem): it would need a passphrase or a PIN
warning: skipped locked-wrong (../../locked.pem?passphrase-env=WRONG): key "locked-wrong": cannot use the key file [DIR]/.config/qkey/../../locked.pem: wrong passphrase

"#]].raw());
    let quiet = qkey.run(["keys", "list", "--quiet"]);
    assert_eq!((quiet.code, &*quiet.stderr), (0, ""));
}
