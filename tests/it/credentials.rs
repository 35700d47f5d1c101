//! Where `--via rest` finds the token, and where the token goes: to the named cluster alone.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use crate::support::{
    core::{Core, TOKEN},
    qkey::{ALICE_PUBLIC, Qkey, Run, side_by_side},
    shell::prints,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use snapbox::{IntoData, assert_data_eq, str};

/// To the simulated Core, whose authority it trusts, without any credentials.
fn without_credentials(core: &Core) -> Qkey {
    Qkey::new()
        .env("QKEY_VIA", "rest")
        .env("QKEY_HOST", "127.0.0.1")
        .env("QKEY_PORT", &core.port().to_string())
        .env("QKEY_CA_FILE", core.ca_file().to_str().expect("UTF-8"))
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
fn qq_credentials_for_the_cluster_are_used() {
    let core = Core::start();
    for (host, folder) in [
        ("127.0.0.1", ".config"),
        ("LocalHost", ".config"),
        ("127.0.0.1", "xdg"),
    ] {
        let mut qkey = without_credentials(&core).env("QKEY_HOST", host);
        if folder == "xdg" {
            let path = qkey.path("xdg");
            qkey = qkey.env("XDG_CONFIG_HOME", path.to_str().expect("UTF-8"));
        }
        assert!(!logged_in(&qkey.run(["keys"])));
        // The older place is for all clusters, and comes second.
        qkey.write(".qfsd_cred", stored("of-another-cluster"));
        assert!(!logged_in(&qkey.run(["keys"])));
        let store = store_of(&core, &host.to_lowercase());
        qkey.write(&format!("{folder}/{store}"), stored(TOKEN));
        assert!(logged_in(&qkey.run(["keys"])), "{host} in {folder}");
    }
}

#[test]
fn relative_xdg_config_home_is_ignored() {
    let core = Core::start();
    let qkey = without_credentials(&core).env("XDG_CONFIG_HOME", "xdg");
    let store = store_of(&core, "127.0.0.1");
    qkey.write(&format!("xdg/{store}"), stored("wrong"));
    qkey.write(&format!(".config/{store}"), stored(TOKEN));
    assert!(logged_in(&qkey.run(["keys"])));
}

#[test]
fn legacy_credentials_file_is_the_fallback() {
    let core = Core::start();
    let qkey = without_credentials(&core);
    qkey.write(".qfsd_cred", stored(TOKEN));
    assert!(logged_in(&qkey.run(["keys"])));
    // Another cluster's do not count.
    qkey.write(
        &format!(".config/{}", store_of(&core, "localhost")),
        stored("wrong"),
    );
    assert!(logged_in(&qkey.run(["keys"])));
}

#[test]
fn missing_credentials_say_how_to_log_in() {
    let core = Core::start();
    let qkey = without_credentials(&core);
    assert_data_eq!(qkey.run(["keys"]).transcript(), str![[r#"
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (no credentials in [DIR]/.config/qumulo/credentials/127.0.0.1_[PORT] or [DIR]/.qfsd_cred)
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
    // A credentials file that is named and not there is the same.
    let named = ["keys", "--credentials-store", "nowhere.json"];
    assert_data_eq!(qkey.run(named).transcript(), str![[r#"
--- exit 6
error: not logged in to 127.0.0.1:[PORT] (no credentials in nowhere.json)
  caused by: Error 401: http_unauthorized_error: Need to log in first to establish credentials.
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=nowhere.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
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
        let warning = match variable.starts_with("QKEY_TOKEN") {
            true => format!(
                "warning: ignored {variable}: it may belong to a cluster other than the one named by a flag\n"
            ),
            false => String::new(),
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
    let core = Core::start();
    let show = ["config", "show"];
    let line = |qkey: &Qkey| {
        let run = qkey.run(show);
        assert!(!format!("{run:?}").contains(TOKEN));
        let text = run.stdout;
        let lines = text.lines().filter(|line| {
            ["credentials-store", "token", "via"].contains(&line.split(' ').next().unwrap())
        });
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
            .collect::<String>()
    };
    let said = [
        line(&without_credentials(&core)),
        line(&without_credentials(&core).env("QKEY_TOKEN", TOKEN)),
        line(&without_credentials(&core).env("QKEY_TOKEN_FILE", "/run/token")),
    ];
    assert_data_eq!(
        said.join("----\n"),
        str![[r#"
credentials-store - default
token - default
via rest environment, QKEY_VIA
----
credentials-store - default
token $QKEY_TOKEN environment, QKEY_TOKEN
via rest environment, QKEY_VIA
----
credentials-store - default
token /run/token environment, QKEY_TOKEN_FILE
via rest environment, QKEY_VIA

"#]]
        .raw()
    );
}

#[test]
fn token_file_has_one_line() {
    let core = Core::start();
    let qkey = without_credentials(&core).env("QKEY_TOKEN_FILE", "token");
    for text in ["test-token", "test-token\n", "test-token\r\n"] {
        qkey.write("token", text);
        assert!(logged_in(&qkey.run(["keys"])), "{text:?}");
    }
}

#[test]
fn invalid_token_is_refused_before_connecting() {
    let core = Core::start();
    let long = "x".repeat((64 << 10) + 1);
    let cases: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("a blank line", b"\n"),
        ("two words", b"test-token x\n"),
        ("two lines", b"test-token\nHost: elsewhere\n"),
        ("not UTF-8", b"test-token\xff\n"),
        ("too long", long.as_bytes()),
        ("a control character", b"test-token\x1b[0m"),
    ];
    let mut said = String::new();
    for (name, text) in cases {
        let qkey = without_credentials(&core).env("QKEY_TOKEN_FILE", "token");
        qkey.write("token", text);
        let run = qkey.run(["keys", "-vv"]);
        assert_eq!(run.code, 6, "{name}");
        assert!(!run.stderr.contains(TOKEN), "{run:?}");
        said += &format!("==== {name}\n{}", run.stderr);
    }
    for (name, path) in [("not there", "nowhere"), ("a folder", "."), ("none", "")] {
        let qkey = without_credentials(&core).env("QKEY_TOKEN_FILE", path);
        let run = qkey.run(["keys"]);
        assert_eq!(run.code, 6, "{name}");
        said += &format!("==== {name}\n{}", run.stderr);
    }
    for token in ["", "test-token x", "test-token\n\n\nx"] {
        let qkey = without_credentials(&core).env("QKEY_TOKEN", token);
        let run = qkey.run(["keys", "-vv"]);
        assert_eq!(run.code, 6, "{token:?}");
        assert!(!run.stderr.contains(TOKEN), "{run:?}");
        said += &format!("==== QKEY_TOKEN={token:?}\n{}", run.stderr);
    }
    assert_data_eq!(said, str![[r#"
==== empty
error: token holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== a blank line
error: token holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== two words
error: token holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== two lines
error: token holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== not UTF-8
error: cannot read the credentials in token
  caused by: invalid utf-8 sequence of 1 bytes from index 10
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== too long
error: cannot read the credentials in token
  caused by: longer than 65536 bytes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== a control character
error: token holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== not there
error: cannot read the credentials in nowhere
  caused by: No such file or directory (os error 2)
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== a folder
error: cannot read the credentials in .
  caused by: Is a directory (os error 21)
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== none
error: QKEY_TOKEN_FILE is empty
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== QKEY_TOKEN=""
error: QKEY_TOKEN holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== QKEY_TOKEN="test-token x"
error: QKEY_TOKEN holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== QKEY_TOKEN="test-token\n\n\nx"
error: QKEY_TOKEN holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
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
    let mut said = String::new();
    for (name, text) in cases {
        let qkey = without_credentials(&core).env("QKEY_CREDENTIALS_STORE", "store.json");
        qkey.write("store.json", text);
        for output in ["text", "json"] {
            let run = qkey.run(["keys", "-vv", "--output", output]);
            assert_eq!(run.code, 6, "{name}: {run:?}");
            assert!(!format!("{run:?}").contains(TOKEN), "{run:?}");
            if output == "text" {
                said += &format!("==== {name}\n{}", run.stderr);
            }
        }
    }
    assert_data_eq!(said, str![[r#"
==== not JSON
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== cut off
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== another version
error: [CREDENTIALS] is not a credentials file of qq: its version is 2, not 1
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== no version
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== no token
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== null
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== a list
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== an empty token
error: [CREDENTIALS] holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== a token of two lines
error: [CREDENTIALS] holds no token: it must be one line of visible ASCII without spaces
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== empty
error: [CREDENTIALS] is not a credentials file of qq: it must be the JSON with a bearer_token that `qq login` writes
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
    assert_eq!(core.connections(), 0);
}

#[test]
fn credentials_with_escapes_and_unknown_fields_parse() {
    let core = Core::start();
    let qkey = without_credentials(&core).env("QKEY_CREDENTIALS_STORE", "store.json");
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
    assert_data_eq!(run.transcript(), str![[r#"
--- exit 6
error: cannot read the credentials in store.json
  caused by: Permission denied (os error 13)
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=store.json login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
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
        // The environment's file is named as [CREDENTIALS].
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

/// Runs `qkey` on a FIFO that nobody writes.
fn with_fifo(core: &Core, variable: &str) -> Qkey {
    let qkey = without_credentials(core).env(variable, "fifo");
    let made = Command::new("mkfifo").arg(qkey.path("fifo")).status();
    assert!(made.expect("mkfifo runs").success());
    qkey
}

#[test]
fn credentials_fifo_without_writer_times_out() {
    let core = Core::start();
    let said = side_by_side(&["QKEY_TOKEN_FILE", "QKEY_CREDENTIALS_STORE"], |variable| {
        let qkey = with_fifo(&core, variable);
        qkey.run(["keys", "--timeout=1"]).transcript()
    });
    assert_data_eq!(said, str![[r#"
==== QKEY_TOKEN_FILE
--- exit 6
error: cannot read the credentials in fifo
  caused by: no end of input within 1 s
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE
==== QKEY_CREDENTIALS_STORE
--- exit 6
error: cannot read the credentials in [CREDENTIALS]
  caused by: no end of input within 1 s
hint: log in first: `qq --host=127.0.0.1 --port=[PORT] --credentials-store=[CREDENTIALS] login -u USER`, or provide a token in QKEY_TOKEN or QKEY_TOKEN_FILE

"#]].raw());
}

#[test]
fn interrupt_while_reading_token_exits() {
    let core = Core::start();
    let qkey = with_fifo(&core, "QKEY_TOKEN_FILE");
    let child = qkey.command(["keys"]).spawn().expect("qkey runs");
    // Opening it waits for somebody who reads; then nothing is written.
    let _writer = File::create(qkey.path("fifo")).expect("a FIFO");
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process id");
    kill_process(pid, Signal::INT).expect("qkey takes signals");
    let run = qkey.taken(&child.wait_with_output().expect("qkey ends"));
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 130
error: cannot read the credentials in fifo
  caused by: interrupted by a signal

"#]]
        .raw()
    );
}

/// A key whose passphrase a program tells, which also writes down its environment.
const NOSY: &str = "locked.pem?passphrase-command=./nosy";

fn with_nosy_program(qkey: &Qkey) {
    qkey.write_program("nosy", "#!/bin/sh\nenv >environment\necho passphrase\n");
    qkey.write("passphrase", "passphrase\n");
    prints(
        qkey,
        "openssl pkcs8 -topk8 -in alice.pem -passout file:passphrase -out locked.pem
         chmod 600 locked.pem",
    );
}

#[test]
fn token_is_withheld_from_programs() {
    let core = Core::start();
    let key = core.add_key(json!({ "name": "lock", "public_key": ALICE_PUBLIC }));
    core.add_snapshot(json!({ "id": 7, "lock_key": key }));
    for via in ["rest", "qq"] {
        let qkey = without_credentials(&core)
            .env("QKEY_TOKEN", TOKEN)
            .env("QKEY_VIA", via);
        with_nosy_program(&qkey);
        let unlock = ["unlock", "--id", "7", "--key", NOSY, "--qq=./nosy"];
        let sign = ["sign", "--key", NOSY, "challenge"];
        let mut commands = vec![&sign[..]];
        if via == "rest" {
            commands.insert(0, &unlock[..]);
        }
        for command in commands {
            let run = qkey.run(command);
            assert_eq!(run.code, 0, "{run:?}");
            let environment = fs::read_to_string(qkey.path("environment"));
            let environment = environment.expect("the program was run");
            assert!(environment.contains("QKEY_VIA="), "{environment}");
            assert!(!environment.contains(TOKEN), "{via} {command:?}");
            fs::remove_file(qkey.path("environment")).expect("it is there");
        }
    }
    assert_eq!(core.snapshot(7)["lock_key"], json!(null));
    // The program in place of `qq` finds no token either.
    let qkey = without_credentials(&core)
        .env("QKEY_TOKEN", TOKEN)
        .env("QKEY_VIA", "qq");
    with_nosy_program(&qkey);
    qkey.run(["keys", "--qq=./nosy"]);
    let environment = fs::read_to_string(qkey.path("environment")).expect("it was run");
    assert!(!environment.contains(TOKEN));
}

#[test]
fn token_is_never_printed() {
    let core = Core::start();
    let key = core.add_key(json!({ "name": "lock", "public_key": ALICE_PUBLIC }));
    core.add_snapshot(json!({ "id": 7, "lock_key": key }));
    let answers = [
        json!({ "kind": "status", "status": 400, "description": format!("Bearer {TOKEN}?") }),
        json!({ "kind": "status", "status": 401, "error_class": TOKEN }),
        json!({ "kind": "redirect", "location": format!("https://elsewhere.invalid/{TOKEN}") }),
        json!({ "kind": "drop_before", "times": 3 }),
        json!({ "kind": "not_json", "times": 3 }),
        json!({ "kind": "html_502" }),
        json!({ "kind": "empty", "times": 3 }),
    ];
    for output in ["text", "json"] {
        for variable in ["QKEY_TOKEN", "QKEY_TOKEN_FILE", "QKEY_CREDENTIALS_STORE"] {
            let value = match variable {
                "QKEY_TOKEN" => TOKEN,
                _ => "token",
            };
            let qkey = without_credentials(&core)
                .env(variable, value)
                .env("QKEY_OUTPUT", output);
            qkey.write(
                "token",
                match variable {
                    "QKEY_TOKEN_FILE" => TOKEN.to_owned(),
                    _ => stored(TOKEN),
                },
            );
            for answer in &answers {
                core.fault("get_status", answer["kind"].as_str().expect("text"), {
                    let mut more = answer.clone();
                    more.as_object_mut().expect("an object").remove("kind");
                    more
                });
                let unlock = ["unlock", "--id=7", "--key=alice.pem", "--dry-run", "-vv"];
                let run = qkey.run(unlock);
                core.clear_faults();
                assert_ne!(run.code, 0, "{answer}");
                assert!(!format!("{run:?}").contains(TOKEN), "{answer}: {run:?}");
            }
            let run = qkey.run(["unlock", "--id=7", "--key=alice.pem", "--dry-run", "-vv"]);
            assert_eq!(run.code, 0, "{run:?}");
            assert!(!format!("{run:?}").contains(TOKEN), "{run:?}");
        }
    }
}
