//! Where `--via rest` finds the token, and that the token goes to the named cluster alone.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use crate::support::{
    core::{Core, TOKEN},
    qkey::{Qkey, Run, send},
    snapshot::{filtered, session, snapshot, table},
};
use rustix::process::Signal;
use serde_json::json;
use snapbox::str;

/// To the simulated Core, whose CA it trusts, without credentials.
fn without_credentials(core: &Core) -> Qkey {
    Qkey::with_port(core.port()).env("QKEY_CA_FILE", core.ca_file())
}

/// What `qq login` writes.
fn stored(token: &str) -> String {
    json!({ "bearer_token": token, "version": 1 }).to_string()
}

/// The name of the file with the credentials of a host at this Core's port.
fn store_of(core: &Core, host: &str) -> String {
    format!("qumulo/credentials/{host}_{}", core.port())
}

/// Whether the cluster took the token; the key store is empty.
fn logged_in(run: &Run) -> bool {
    assert!(matches!(run.code, 0 | 6), "{run:?}");
    run.code == 0
}

#[test]
fn credentials_of_qq_are_used() {
    let core = Core::start();
    for (host, folder) in [
        ("127.0.0.1", ".config"),
        ("LocalHost", ".config"),
        ("127.0.0.1", "xdg"),
    ] {
        let mut qkey = without_credentials(&core);
        if folder == "xdg" {
            let xdg = qkey.path("xdg");
            qkey = qkey.env("XDG_CONFIG_HOME", xdg);
        }
        let keys = format!("keys --host={host}");
        assert!(!logged_in(&qkey.line(&keys)));
        // The older file is for all clusters, and the fallback.
        qkey.write(".qfsd_cred", stored("of-another-cluster"));
        assert!(!logged_in(&qkey.line(&keys)));
        let store = store_of(&core, &host.to_lowercase());
        qkey.write(&format!("{folder}/{store}"), stored(TOKEN));
        assert!(logged_in(&qkey.line(&keys)), "{host} in {folder}");
    }
    // A relative folder is ignored, and so is another cluster's file.
    let qkey = without_credentials(&core).env("XDG_CONFIG_HOME", "xdg");
    let [store, other] = ["127.0.0.1", "localhost"].map(|host| store_of(&core, host));
    qkey.write(&format!("xdg/{store}"), stored("wrong"));
    qkey.write(&format!(".config/{other}"), stored("wrong"));
    qkey.write(".qfsd_cred", stored(TOKEN));
    assert!(logged_in(&qkey.run(["keys"])));
}

#[test]
fn missing_credentials_say_how_to_log_in() {
    let core = Core::start();
    let lines = ["keys", "keys --credentials-store=nowhere.json"];
    snapshot!(
        session(&without_credentials(&core), lines),
        str![[r#"
$ qkey keys
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (no credentials in [DIR]/.config/qumulo/credentials/127.0.0.1_[PORT] or [DIR]/.qfsd_cred)
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
$ qkey keys --credentials-store=nowhere.json
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (no credentials in nowhere.json)
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=nowhere.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]]
    );
    assert_eq!(core.count("list_keys"), 2);
}

#[test]
fn token_precedence() {
    let core = Core::start();
    let configure = |qkey: &Qkey, store: &str| {
        qkey.configure(&format!(
            "default-cluster = \"lab\"\n[clusters.lab]\nhost = \"127.0.0.1\"\nport = {}\nvia = \"rest\"\nca-file = {:?}\ncredentials-store = \"{store}\"\n",
            core.port(),
            core.ca_file(),
        ));
    };
    let base = || {
        let qkey = Qkey::new();
        for (name, token) in [("right", TOKEN), ("wrong", "wrong")] {
            qkey.write(&format!("{name}.json"), stored(token));
            qkey.write(&format!(".config/qkey/{name}.json"), stored(token));
            qkey.write(&format!("{name}.token"), format!("{token}\n"));
        }
        qkey
    };
    let variables = [
        ("QKEY_CREDENTIALS_STORE", "right.json", "wrong.json"),
        ("QKEY_TOKEN", TOKEN, "wrong"),
        ("QKEY_TOKEN_FILE", "right.token", "wrong.token"),
    ];

    let qkey = base();
    configure(&qkey, "./right.json");
    assert!(logged_in(&qkey.run(["keys"])), "the file's");
    configure(&qkey, "./wrong.json");
    assert!(!logged_in(&qkey.run(["keys"])), "the file's");

    for (variable, right, wrong) in variables {
        let qkey = base().env(variable, right);
        configure(&qkey, "./wrong.json");
        assert!(logged_in(&qkey.run(["keys"])), "{variable} before the file");
        // It is not the token of a cluster that is named more strongly.
        configure(&qkey, "./right.json");
        let qkey = qkey.env(variable, wrong);
        assert!(!logged_in(&qkey.run(["keys"])), "{variable} is heeded");
        let named = qkey.run(["keys", "--cluster", "lab"]);
        assert!(logged_in(&named), "{variable} is not for --cluster");
        let warning = if variable.starts_with("QKEY_TOKEN") {
            format!(
                "warning: ignored {variable}: it may belong to a cluster other than the one named by a flag\n"
            )
        } else {
            String::new()
        };
        assert_eq!(named.stderr, warning);
        let flag = ["keys", "--credentials-store", "right.json"];
        assert!(logged_in(&qkey.run(flag)), "the flag before {variable}");
    }
    // The token itself is the most direct of those in the environment.
    let qkey = base()
        .env("QKEY_CREDENTIALS_STORE", "wrong.json")
        .env("QKEY_TOKEN_FILE", "wrong.token")
        .env("QKEY_TOKEN", TOKEN);
    configure(&qkey, "./wrong.json");
    assert!(logged_in(&qkey.run(["keys"])));
}

#[test]
fn config_show_names_the_token_source() {
    let said = ["QKEY_NONE", "QKEY_TOKEN", "QKEY_TOKEN_FILE"].map(|variable| {
        let run = Qkey::with_port(1).env(variable, TOKEN).line("config show");
        let line = run.stdout.lines().find(|line| line.starts_with("token "));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        format!("{variable}: {}\n", words.join(" "))
    });
    snapshot!(
        said.concat(),
        str![[r#"
QKEY_NONE: token - default
QKEY_TOKEN: token $QKEY_TOKEN environment, QKEY_TOKEN
QKEY_TOKEN_FILE: token test-token environment, QKEY_TOKEN_FILE

"#]]
    );
}

/// What runs say, without the hint of all failed logins.
fn without_hint(run: &Run) -> String {
    let said = filtered(run);
    let hint = said.find("hint: log in first: `qq --host=127.0.0.1 --port=[PORT]");
    said[..hint.unwrap_or_else(|| panic!("{run:?}"))].to_owned()
}

#[test]
fn token_is_one_line() {
    let core = Core::start();
    let qkey = without_credentials(&core).env("QKEY_TOKEN_FILE", "token");
    for text in ["test-token", "test-token\n", "test-token\r\n"] {
        qkey.write("token", text);
        assert!(logged_in(&qkey.run(["keys"])), "{text:?}");
    }
    let core = Core::start();
    let qkey = without_credentials(&core).env("QKEY_TOKEN_FILE", "token");
    let long = "x".repeat((64 << 10) + 1);
    let cases: [&[u8]; 6] = [
        b"",
        b"test-token x\n",
        b"test-token\nHost: elsewhere\n",
        b"test-token\xff\n",
        b"test-token\x1b[0m",
        long.as_bytes(),
    ];
    let mut said = String::new();
    for text in cases {
        qkey.write("token", text);
        let run = qkey.line("keys -vv");
        assert!(run.code == 6 && !run.stderr.contains(TOKEN), "{run:?}");
        let start = &text[..text.len().min(40)];
        said += &format!(
            "==== {:?}\n{}",
            start.escape_ascii().to_string(),
            without_hint(&run)
        );
    }
    for (variable, value) in [
        ("QKEY_TOKEN_FILE", "nowhere"),
        ("QKEY_TOKEN_FILE", "."),
        ("QKEY_TOKEN_FILE", ""),
        ("QKEY_TOKEN", ""),
        ("QKEY_TOKEN", "test-token x"),
    ] {
        let run = without_credentials(&core)
            .env(variable, value)
            .line("keys -vv");
        assert!(!run.stderr.contains(TOKEN), "{run:?}");
        said += &format!("==== {variable}={value}\n{}", without_hint(&run));
    }
    snapshot!(
        said,
        str![[r#"
==== ""
--- exit 6
error: token holds no token: it must be one line of visible ASCII without spaces
==== "test-token x\\n"
--- exit 6
error: token holds no token: it must be one line of visible ASCII without spaces
==== "test-token\\nHost: elsewhere\\n"
--- exit 6
error: token holds no token: it must be one line of visible ASCII without spaces
==== "test-token\\xff\\n"
--- exit 6
error: cannot read the credentials in token
  caused by: invalid utf-8 sequence of 1 bytes from index 10
==== "test-token\\x1b[0m"
--- exit 6
error: token holds no token: it must be one line of visible ASCII without spaces
==== "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
--- exit 6
error: cannot read the credentials in token
  caused by: longer than 65536 bytes
==== QKEY_TOKEN_FILE=nowhere
--- exit 6
error: cannot read the credentials in nowhere
  caused by: No such file or directory (os error 2)
==== QKEY_TOKEN_FILE=.
--- exit 6
error: cannot read the credentials in .
  caused by: Is a directory (os error 21)
==== QKEY_TOKEN_FILE=
--- exit 6
error: QKEY_TOKEN_FILE is empty
==== QKEY_TOKEN=
--- exit 6
error: QKEY_TOKEN holds no token: it must be one line of visible ASCII without spaces
==== QKEY_TOKEN=test-token x
--- exit 6
error: QKEY_TOKEN holds no token: it must be one line of visible ASCII without spaces

"#]]
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn invalid_credentials_file_is_not_quoted() {
    let core = Core::start();
    let cases = [
        ("not JSON", TOKEN.to_owned()),
        ("cut off", format!("{{\"bearer_token\": \"{TOKEN}")),
        (
            "another version",
            json!({ "bearer_token": TOKEN, "version": 2 }).to_string(),
        ),
        ("no version", json!({ "bearer_token": TOKEN }).to_string()),
        ("no token", json!({ "version": 1 }).to_string()),
        (
            "null",
            json!({ "bearer_token": null, "version": 1 }).to_string(),
        ),
        ("a list", json!([TOKEN]).to_string()),
        ("an empty token", stored("")),
        ("a token of two lines", stored(&format!("{TOKEN}\r\nX: y"))),
        ("empty", String::new()),
    ];
    let qkey = without_credentials(&core).env("QKEY_CREDENTIALS_STORE", "store.json");
    let mut said = String::new();
    for (name, text) in cases {
        qkey.write("store.json", text);
        let [text, json] = ["text", "json"].map(|output| {
            let run = qkey.line(&format!("keys -vv --output={output}"));
            assert!(!format!("{run:?}").contains(TOKEN), "{run:?}");
            run
        });
        assert_eq!(json.code, 6, "{name}: {json:?}");
        said += &format!("==== {name}\n{}", without_hint(&text));
    }
    snapshot!(
        said,
        str![[r#"
==== not JSON
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== cut off
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== another version
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: its version is 2, not 1
==== no version
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== no token
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== null
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== a list
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
==== an empty token
--- exit 6
error: [CREDENTIALS] holds no token: it must be one line of visible ASCII without spaces
==== a token of two lines
--- exit 6
error: [CREDENTIALS] holds no token: it must be one line of visible ASCII without spaces
==== empty
--- exit 6
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes

"#]]
    );
    assert_eq!(core.connections(), 0);
    // Escapes and unknown fields are fine.
    qkey.write(
        "store.json",
        "{\"user\": {\"id\": 500}, \"version\": 1, \"bearer_token\": \"test\\u002dtoken\"}\n",
    );
    assert!(logged_in(&qkey.run(["keys"])));
}

#[test]
fn unreadable_credentials_are_an_error() {
    let core = Core::start();
    let qkey = without_credentials(&core);
    let store = qkey.write("store.json", stored(TOKEN));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o000)).expect("a mode");
    let mut command = qkey.command(["keys", "--credentials-store", "store.json"]);
    if rustix::process::geteuid().is_root() {
        // Root may read everything; nobody may not, once it gets into the folder.
        let folder = store.parent().expect("a folder");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a mode");
        command.uid(65534);
    }
    let run = qkey.taken(&command.output().expect("qkey runs"));
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 6
error: cannot read the credentials in store.json
  caused by: Permission denied (os error 13)
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=store.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]]
    );
    assert_eq!(core.connections(), 0);
}

#[test]
fn credentials_readable_by_others_warn() {
    let core = Core::start();
    for (variable, name, text) in [
        ("QKEY_CREDENTIALS_STORE", "store.json", stored(TOKEN)),
        ("QKEY_TOKEN_FILE", "token", TOKEN.to_owned()),
    ] {
        let qkey = without_credentials(&core).env(variable, name);
        let path = qkey.write(name, text);
        assert_eq!(qkey.run(["keys"]).stderr, "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let expected = format!(
            "warning: {name} can be read or written by others (mode 0640); fix with: chmod 600 {name}\n"
        );
        let run = qkey.run(["keys"]);
        assert!(logged_in(&run));
        // The redacted run shows the variable's value as [CREDENTIALS].
        assert_eq!(run.stderr.replace("[CREDENTIALS]", name), expected);
        assert_eq!(qkey.run(["keys", "-q"]).stderr, "");
    }
}

#[test]
fn ca_file_writable_by_others_warns() {
    let core = Core::start();
    let qkey = Qkey::with_rest(&core);
    let keys_with_mode = |mode| {
        fs::set_permissions(core.ca_file(), fs::Permissions::from_mode(mode)).expect("a mode");
        let run = qkey.run(["keys"]);
        assert!(logged_in(&run));
        run.stderr
    };
    assert_eq!(keys_with_mode(0o644), "");
    assert_eq!(
        keys_with_mode(0o664),
        "warning: [CA] can be written by others (mode 0664); fix with: chmod go-w [CA]\n"
    );
}

/// With a FIFO to which nothing writes.
fn with_fifo(core: &Core, variable: &str) -> Qkey {
    let qkey = without_credentials(core).env(variable, "fifo");
    let made = Command::new("mkfifo").arg(qkey.path("fifo")).status();
    assert!(made.expect("mkfifo runs").success());
    qkey
}

#[test]
fn credentials_fifo_without_writer_times_out() {
    let core = Core::start();
    let said = table(["QKEY_TOKEN_FILE", "QKEY_CREDENTIALS_STORE"], |variable| {
        without_hint(&with_fifo(&core, variable).line("keys --timeout=1"))
    });
    snapshot!(
        said,
        str![[r#"
==== QKEY_TOKEN_FILE
--- exit 6
error: cannot read the credentials in fifo
  caused by: no end of input within 1 s
==== QKEY_CREDENTIALS_STORE
--- exit 6
error: cannot read the credentials in [CREDENTIALS]
  caused by: no end of input within 1 s

"#]]
    );
}

#[test]
fn interrupt_while_reading_token_exits() {
    let core = Core::start();
    let qkey = with_fifo(&core, "QKEY_TOKEN_FILE");
    let child = qkey.start("keys");
    // Opening it waits for a reader; then nothing is written.
    let _writer = File::create(qkey.path("fifo")).expect("a FIFO");
    send(&child, Signal::INT);
    let run = qkey.end(child);
    snapshot!(
        filtered(&run),
        str![[r#"
--- exit 130
error: cannot read the credentials in fifo
  caused by: interrupted by a signal

"#]]
    );
}

#[test]
fn token_is_withheld_from_programs() {
    // It prints a passphrase, and stands in for `qq`.
    const NOSY: &str = "#!/bin/sh\nenv >environment\ncat passphrase\n";
    const KEY: &str = "locked.pem?passphrase-command=./nosy";
    let core = Core::with_lock_key();
    for line in [
        format!("unlock --id=2 --key={KEY} --via=rest"),
        format!("sign --key={KEY} challenge"),
        "keys --via=qq --qq=./nosy".to_owned(),
    ] {
        let qkey = without_credentials(&core).env("QKEY_TOKEN", TOKEN);
        qkey.encrypt_alice();
        qkey.write_program("nosy", NOSY);
        let run = qkey.line(&line);
        assert_eq!(run.code == 0, !line.starts_with("keys"), "{run:?}");
        let environment = fs::read_to_string(qkey.path("environment"));
        let environment = environment.expect("the program ran");
        assert!(environment.contains("QKEY_VIA="), "{environment}");
        assert!(!environment.contains(TOKEN), "{line}");
    }
}

#[test]
fn token_is_never_printed() {
    let core = Core::with_lock_key();
    let replies = [
        (
            "status",
            json!({ "status": 400, "description": format!("Bearer {TOKEN}?") }),
        ),
        ("status", json!({ "status": 401, "error_class": TOKEN })),
        (
            "redirect",
            json!({ "location": format!("https://elsewhere.invalid/{TOKEN}") }),
        ),
        ("drop_before", json!({ "times": 3 })),
        ("not_json", json!({})),
        ("html_502", json!({})),
        ("slow", json!({ "seconds": 0 })),
    ];
    for (variable, value) in [
        ("QKEY_TOKEN", TOKEN),
        ("QKEY_TOKEN_FILE", "token"),
        ("QKEY_CREDENTIALS_STORE", "store.json"),
    ] {
        let qkey = without_credentials(&core).env(variable, value);
        qkey.write("token", TOKEN);
        qkey.write("store.json", stored(TOKEN));
        for (kind, more) in &replies {
            for output in ["text", "json"] {
                core.fault("list_keys", kind, more.clone());
                let run = qkey.line(&format!("keys -vv --output={output}"));
                core.clear_faults();
                assert_eq!(run.code == 0, *kind == "slow", "{kind} {more}: {run:?}");
                assert!(
                    !format!("{run:?}").contains(TOKEN),
                    "{kind} {more}: {run:?}"
                );
            }
        }
    }
}
