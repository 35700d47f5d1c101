//! Hostile text from a cluster, a plugin, a tool, a file or the command line: none of it steers the
//! terminal, passes for a line of qkey's own, or runs when a user copies a command from a hint.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::support::{
    core::Core,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey, Run},
    terminal::Terminal,
};
use serde_json::{Value, json};

/// Each contains `pwned`: a marker to find it by, and the file that it would create.
fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> = [
        "\u{1b}[2J\u{1b}]0;pwned\u{7}\u{8}\u{7f}\r\u{b}FAKE\u{c}FAKE\u{9b}31m\u{90}\u{9d}\u{85}FAKE",
        "pwned\nerror: FAKE\r\nhint: FAKE\nFAKE row\u{2028}FAKE\u{2029}FAKE",
        "\u{202e}fdp.denwp\u{202c}\u{2066}pwned\u{2069}\u{200e}\u{200f}\u{61c}",
        "pw\u{200b}\u{200c}\u{200d}\u{2060}\u{2064}\u{feff}\u{180e}\u{ad}\u{34f}pwned",
        "pwned\u{e0001}\u{e0041}\u{e007f}\u{e0100}\u{fe0f}\u{115f}\u{1160}\u{3164}\u{ffa0}\u{2800}\
         \u{fff9}\u{fffb}\u{fffe}\u{fdd0}\u{e000}\u{10ffff}\u{1d173}",
        "$(touch pwned)`touch pwned`${IFS}",
        "'; touch pwned; '",
        "\"; touch pwned; \"\\",
        "'\n`touch pwned`\u{1b}'!!pwned",
        "&& touch pwned | touch pwned > pwned; touch pwned; # ~*?[a]{b,c}",
        "-pwned",
        "--help=pwned",
    ]
    .map(str::to_owned)
    .into();
    payloads.push(format!("pwned{}", "\u{301}".repeat(200)));
    payloads.push(format!("pwned{}", "x".repeat(100_000)));
    payloads
}

/// What must never come out raw. Independent of the program's own list, to reveal gaps in it.
fn is_dangerous(c: char) -> bool {
    matches!(c,
        '\0'..='\u{9}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{e000}'..='\u{f8ff}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{10ffff}')
}

#[track_caller]
fn assert_harmless(what: &str, stream: &str) {
    let bad = stream.chars().find(|&c| is_dangerous(c));
    assert_eq!(bad, None, "{what}: {stream:?}");
    assert!(
        !stream.contains(&"\u{301}".repeat(20)),
        "{what}: a flood of marks"
    );
    let fake = |line: &str| {
        ["FAKE", "error: FAKE", "hint: FAKE"]
            .iter()
            .any(|fake| line.starts_with(fake))
    };
    assert!(!stream.lines().any(fake), "{what}: {stream}");
}

/// Every string in a JSON value.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(strings).collect(),
        Value::Object(fields) => fields.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

/// The objects that were printed, one a line.
#[track_caller]
fn objects(what: &str, stream: &str) -> Vec<Value> {
    stream
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error}: {line}"))
        })
        .collect()
}

/// Programs that hints tell a user to run.
const PROGRAMS: [&str; 6] = ["qkey", "qq", "chmod", "openssl", "ssh-keygen", "bao"];

/// The commands in a text, each of which begins after a backtick and ends at the next.
fn commands(text: &str) -> Vec<&str> {
    let is_command = |piece: &&str| {
        let program = piece.split(' ').next().unwrap_or_default();
        PROGRAMS.contains(&program) && piece.len() > program.len()
    };
    // Split at every backtick, so that a stray one in a name does not shift what follows.
    text.split('`').skip(1).filter(is_command).collect()
}

/// In a hint, every piece between backticks that holds a payload.
fn all_between_backticks(hint: &str) -> Vec<&str> {
    let pieces = hint.split('`').skip(1).step_by(2);
    pieces.filter(|piece| piece.contains("pwned")).collect()
}

/// Runs commands with stubs in place of the programs, and checks the arguments that the stubs got.
#[track_caller]
fn assert_inert(what: &str, stubs: &Qkey, commands: &[&str], payload: &str) {
    if commands.is_empty() {
        return;
    }
    let empty = tempfile::tempdir().expect("a folder");
    let argv = tempfile::NamedTempFile::new().expect("a file");
    for command in commands {
        let output = Command::new("bash")
            .args(["-c", command])
            .current_dir(empty.path())
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", stubs.path("stubs").display()),
            )
            .env("ARGV", argv.path())
            .output()
            .expect("bash runs");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{what}: {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let made: Vec<_> = fs::read_dir(empty.path()).expect("a folder").collect();
    assert!(made.is_empty(), "{what}: {commands:?} made {made:?}");
    let given = fs::read_to_string(argv.path()).expect("UTF-8");
    let start = file_name(payload);
    for word in given.split('\0').filter(|word| word.contains("pwned")) {
        assert!(
            word.contains(&start) || word.contains(&percent_encoded(&start)),
            "{what}: {word:?} is not {payload:?}"
        );
        assert!(
            !word.starts_with(payload) || !payload.starts_with('-'),
            "{what}: {word:?} would be an option"
        );
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A user's folder, with a cluster, a plugin and a tool that say what a test wrote for them.
struct World {
    qkey: Qkey,
}

/// A `qq` that prints the files named after its command.
const QQ: &str = r#"#!/bin/sh
for arg; do case $arg in fs_*|snapshot_*) call=$arg ;; esac; done
code=0
[ ! -f "$call.err" ] || cat "$call.err" >&2
[ ! -f "$call.out" ] || cat "$call.out"
[ ! -f "$call.code" ] || read -r code <"$call.code"
exit "$code"
"#;

const PLUGIN: &str = "#!/bin/sh\ncat >/dev/null\ncat plugin.err >&2\ncat plugin.out\n";

const BAO: &str = "#!/bin/sh\ncat bao.err >&2\nexit 2\n";

/// Records its arguments.
const STUB: &str = "#!/bin/sh\nprintf '%s\\0' \"$@\" >>\"$ARGV\"\n";

/// A folder for PATH, with `stubs` in it for the commands in hints.
fn programs() -> Qkey {
    let programs = Qkey::new();
    for (name, text) in [("qq", QQ), ("qkey-signer-test", PLUGIN), ("bao", BAO)] {
        programs.write_program(name, text);
    }
    fs::create_dir(programs.path("stubs")).expect("a folder");
    for name in PROGRAMS {
        programs.write_program(&format!("stubs/{name}"), STUB);
    }
    programs
}

impl World {
    fn new(programs: &Qkey) -> Self {
        let path = std::env::var("PATH").expect("a PATH in UTF-8");
        let path = format!("{}:{path}", programs.path("").display());
        let qkey = Qkey::new().env("QKEY_HOST", "cluster").env("PATH", &path);
        Self { qkey }
    }

    fn says(&self, call: &str, stdout: impl ToString) {
        self.qkey.write(&format!("{call}.out"), stdout.to_string());
    }

    fn fails(&self, call: &str, code: u8, stderr: &str) {
        self.qkey.write(&format!("{call}.err"), stderr);
        self.qkey
            .write(&format!("{call}.code"), format!("{code}\n"));
    }

    fn holds(&self, name: &str, comment: &str, public_key: &str) {
        let key = json!({ "id": "1", "name": name, "comment": comment, "disabled": false, "public_key": public_key });
        self.says("fs_security_list_keys", json!({ "entries": [key] }));
    }

    fn has_snapshot(&self, text: &str, lock_key: Option<&str>) {
        self.says(
            "snapshot_get_status",
            json!({ "id": 7, "name": text, "source_file_path": text,
            "timestamp": text, "expiration": text, "lock_key": lock_key }),
        );
        self.says(
            "snapshot_get_unlock_challenge",
            json!({ "challenge": text }),
        );
    }
}

/// Where text comes in: prepares the world, and returns the arguments of qkey.
type Place = (&'static str, fn(&World, &str) -> Vec<String>);

fn args<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).into()
}

/// The payload as the name of a file.
fn file_name(payload: &str) -> String {
    payload.chars().take(60).filter(|&c| c != '/').collect()
}

const PLACES: &[Place] = &[
    ("a stored key in the list", |world, text| {
        world.holds(text, text, text);
        args(["keys"])
    }),
    ("a stored key", |world, text| {
        world.holds(text, text, text);
        args(["keys", "show", "1"])
    }),
    ("the kind of a usage", |world, text| {
        world.holds(text, "", ALICE_PUBLIC);
        world.says(
            "fs_security_get_key_usage",
            json!([{ "type": text, "id": "a" }]),
        );
        args(["keys", "usage"])
    }),
    ("a snapshot to lock", |world, text| {
        world.holds(text, text, ALICE_PUBLIC);
        world.has_snapshot(text, None);
        args(["lock", "--id=7", "--lock-key=1", "--dry-run"])
    }),
    ("a snapshot to unlock, and its challenge", |world, text| {
        world.holds(text, text, ALICE_PUBLIC);
        world.has_snapshot(text, Some("1"));
        args(["unlock", "--id=7", "--key=alice.pem", "--dry-run", "-vv"])
    }),
    (
        "the lock key of a snapshot, and another key",
        |world, text| {
            world.holds(text, text, ALICE_PUBLIC);
            world.has_snapshot(text, Some("1"));
            args(["unlock", "--id=7", "--key=bob.pem"])
        },
    ),
    ("a taken name", |world, text| {
        world.holds(text, text, BOB_PUBLIC);
        args(["add", &format!("--name={text}"), "--key=alice.pem"])
    }),
    ("a different comment", |world, text| {
        world.holds("new", text, ALICE_PUBLIC);
        args(["add", "--name=new", "--key=alice.pem", "--comment=other"])
    }),
    ("a missing stored key", |world, text| {
        world.holds(text, "", ALICE_PUBLIC);
        args(["keys", "show", &format!("--key-id={text}s")])
    }),
    ("the description of an API error", |world, text| {
        world.fails(
            "fs_security_list_keys",
            1,
            &format!("Error 404: {text}: {text}\n"),
        );
        args(["keys"])
    }),
    ("an API error on stdout", |world, text| {
        world.fails("fs_security_list_keys", 1, "");
        world.says("fs_security_list_keys", format!("Error 401: x: {text}\n"));
        args(["keys"])
    }),
    ("a traceback", |world, text| {
        let traceback = format!("Traceback (most recent call last):\n  x\nValueError: {text}\n");
        world.fails("fs_security_list_keys", 1, &traceback);
        args(["keys"])
    }),
    ("a connection error", |world, text| {
        world.fails(
            "fs_security_list_keys",
            1,
            &format!("Connection error: {text}\n"),
        );
        args(["keys"])
    }),
    ("a usage error of qq", |world, text| {
        world.fails(
            "fs_security_list_keys",
            2,
            &format!("usage: qq\nqq: error: {text}\n"),
        );
        args(["keys"])
    }),
    ("other output of qq", |world, text| {
        world.fails("fs_security_list_keys", 3, text);
        args(["keys"])
    }),
    ("a malformed reply", |world, text| {
        world.says("fs_security_list_keys", text);
        args(["keys", "-vv"])
    }),
    ("a string in place of a number", |world, text| {
        world.holds("a", "", ALICE_PUBLIC);
        world.says(
            "snapshot_get_status",
            json!({ "id": text, "lock_key": null }),
        );
        args(["lock", "--id=7", "--lock-key=1"])
    }),
    ("the id of a key", |world, text| {
        world.says(
            "fs_security_list_keys",
            json!({ "entries": [
            { "id": format!("1{text}"), "name": "a", "public_key": BOB_PUBLIC }] }),
        );
        args(["add", "--name=a", "--key=alice.pem"])
    }),
    ("the id of a lock key", |world, text| {
        world.holds("a", "", ALICE_PUBLIC);
        world.has_snapshot("a", Some(text));
        args(["lock", "--id=7", "--lock-key=1"])
    }),
    ("the id of a usage", |world, text| {
        world.holds("a", "", ALICE_PUBLIC);
        world.says(
            "fs_security_get_key_usage",
            json!([{ "type": "replication_target", "id": text }]),
        );
        args(["keys", "usage"])
    }),
    ("a host", |world, text| {
        world.fails("fs_security_list_keys", 1, "Error 401: x: y\n");
        args(["keys", &format!("--host={text}"), "-vv"])
    }),
    ("the path of credentials", |world, text| {
        world.fails("fs_security_list_keys", 1, "Error 401: x: y\n");
        args(["keys", &format!("--credentials-store={text}")])
    }),
    ("a missing key file", |_, text| {
        args(["sign", &format!("--key={text}"), "challenge"])
    }),
    ("a key file that others can read", |world, text| {
        let path = world
            .qkey
            .write(&file_name(text), crate::support::qkey::ALICE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        args(["sign", &format!("--key={}", file_name(text)), "challenge"])
    }),
    ("a malformed key file", |world, text| {
        world.qkey.write(
            &file_name(text),
            format!("-----BEGIN {text} PRIVATE KEY-----\nAAAA\n"),
        );
        args(["sign", &format!("--key={}", file_name(text)), "challenge"])
    }),
    ("a new key file", |_, text| {
        args(["generate", "--", &file_name(text)])
    }),
    ("a new key file, over another", |world, text| {
        world.qkey.write(&file_name(text), "");
        args(["generate", "--", &file_name(text)])
    }),
    ("a key for openssl", |_, text| {
        args([
            "sign",
            &format!("--key=openssl:{}", percent_encoded(&file_name(text))),
            "challenge",
        ])
    }),
    ("an attribute", |_, text| {
        args(["sign", &format!("--key=file:a?{text}=b"), "challenge"])
    }),
    ("the name of a cluster", |world, text| {
        world
            .qkey
            .configure(&configuration("clusters", text, "host", "cluster"));
        args(["config", "show", &format!("--cluster={text}")])
    }),
    ("a missing cluster", |world, text| {
        world
            .qkey
            .configure(&configuration("clusters", text, "host", "cluster"));
        args(["keys", "--cluster=other"])
    }),
    ("an unknown field of the configuration", |world, text| {
        world
            .qkey
            .configure(&configuration("clusters", "a", text, "cluster"));
        args(["keys"])
    }),
    ("the source of a configured key", |world, text| {
        world.qkey.configure(&configuration(
            "keys",
            "a",
            "source",
            &format!("./{}", file_name(text)),
        ));
        world.holds("a", "", ALICE_PUBLIC);
        args(["keys"])
    }),
    ("an unknown command", |_, text| args([text])),
    ("an unknown flag", |_, text| {
        args(["keys", &format!("--{text}")])
    }),
    ("an invalid value", |_, text| {
        args(["keys", &format!("--via={text}")])
    }),
    ("one argument too many", |_, text| {
        args(["keys", "show", "1", "--", text])
    }),
    ("a line of a list of ids", |world, text| {
        world.qkey.write("ids", text);
        args(["unlock", "--ids-from=ids", "--key=alice.pem"])
    }),
    ("a signature to verify", |_, text| {
        args([
            "verify",
            "--public-key",
            BOB_PUBLIC,
            &format!("--signature={text}"),
            "challenge",
        ])
    }),
    ("a public key", |_, text| {
        args([
            "verify",
            "--signature=AAAA",
            &format!("--public-key={text}"),
            "challenge",
        ])
    }),
    ("a plugin's refusal", |world, text| {
        let error = json!({ "kind": "denied", "message": text, "hint": text });
        world.qkey.write(
            "plugin.out",
            json!({ "version": 1, "error": error }).to_string(),
        );
        world.qkey.write("plugin.err", text);
        args(["pubkey", "plugin:test:a", "-vv"])
    }),
    ("a malformed plugin reply", |world, text| {
        world.qkey.write("plugin.out", text);
        world.qkey.write("plugin.err", "");
        args([
            "pubkey",
            &format!("plugin:test:{}", percent_encoded(&file_name(text))),
        ])
    }),
    ("a tool's complaint, and a key's name", |world, text| {
        world
            .qkey
            .write("bao.err", format!("{text}\n* permission denied\n{text}\n"));
        let mount = percent_encoded(&file_name(text));
        args([
            "pubkey",
            &format!("hashivault://key?mount={mount}&tool=bao"),
        ])
    }),
];

fn configuration(table: &str, name: &str, field: &str, value: &str) -> String {
    let string = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        "[{table}.{}]\n{} = {}\n",
        basic(name),
        basic(field),
        string(value)
    )
}

/// A quoted key in TOML, whose writer in the `toml` crate takes whole documents only.
fn basic(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            'a'..='z' => c.to_string(),
            c => format!("\\U{:08X}", u32::from(c)),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[track_caller]
fn assert_safe(what: &str, stubs: &Qkey, payload: &str, text: &Run, json: &Run) {
    for stream in [&text.stdout, &text.stderr, &json.stdout, &json.stderr] {
        assert_harmless(what, stream);
    }
    assert_eq!(text.code, json.code, "{what}: {text:?} {json:?}");
    assert_ne!(text.code, 101, "{what}: {text:?}");
    let printed = [&text.stdout, &text.stderr];
    if payload.chars().count() > 50_000 {
        let longest = printed
            .iter()
            .flat_map(|text| text.lines())
            .map(str::len)
            .max();
        assert!(
            longest.unwrap_or_default() < 9_000,
            "{what}: a line of {longest:?} bytes"
        );
        assert!(
            text.stderr.len() < 30_000,
            "{what}: {} bytes",
            text.stderr.len()
        );
        assert!(
            json.stderr.len() < 40_000,
            "{what}: {} bytes",
            json.stderr.len()
        );
    }
    assert_inert(what, stubs, &commands(&text.stdout), payload);
    for object in objects(what, &json.stderr) {
        for text in strings(&object) {
            assert_inert(what, stubs, &commands(&text), payload);
        }
        // A plugin's hint is the plugin's own advice.
        if let Some(hint) = object["error"]["hint"]
            .as_str()
            .filter(|hint| *hint != payload)
        {
            assert_inert(what, stubs, &all_between_backticks(hint), payload);
        }
    }
    objects(what, &json.stdout);
}

#[test]
fn hostile_text_never_reaches_the_terminal_or_a_copied_command() {
    let cases: Vec<(&Place, String)> = PLACES
        .iter()
        .flat_map(|place| payloads().into_iter().map(move |payload| (place, payload)))
        .collect();
    let (programs, next) = (programs(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((place, payload)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(&programs, place, payload);
                }
            });
        }
    });
}

fn check(programs: &Qkey, (name, prepare): &Place, payload: &str) {
    let shown: String = payload.chars().take(40).collect();
    let what = format!("{name}, {shown:?}");
    let run = |format: &str| {
        let world = World::new(programs);
        let mut args = prepare(&world, payload);
        let position = args
            .iter()
            .position(|arg| arg == "--")
            .unwrap_or(args.len());
        args.insert(position, format!("--output={format}"));
        world.qkey.run(&args)
    };
    // One argument has at most 128 KiB, and a folder's name 255 bytes.
    let (text, json) = (run("text"), run("json"));
    assert_safe(&what, programs, payload, &text, &json);
}

#[test]
fn json_keeps_names_and_comments_whole() {
    let programs = programs();
    for mut payload in payloads() {
        // As much as a key may hold.
        if payload.len() > 60_000 {
            payload.truncate(60_000);
        }
        let world = World::new(&programs);
        world.holds(&payload, &payload, &payload);
        let run = world.qkey.run(["keys", "--output=json"]);
        let key = &run.json()["keys"][0];
        assert_eq!(
            [&key["name"], &key["comment"], &key["public_key"]],
            [&json!(payload); 3]
        );
        world.fails("fs_security_list_keys", 3, &payload);
        let run = world.qkey.run(["keys", "--output=json", "-vv"]);
        for object in objects("stderr", &run.stderr) {
            let known = |text: &String| {
                payload.len() > 1_000 || !text.contains("exited") || text.contains(payload.trim())
            };
            assert!(strings(&object).iter().all(known), "{object}");
        }
    }
}

#[test]
fn hostile_rest_replies_are_escaped() {
    let core = Core::start();
    let qkey = Qkey::with_rest(&core);
    let programs = programs();
    for payload in payloads() {
        let shown: String = payload.chars().take(40).collect();
        let run = |what: &str, args: &[&str], fault: &dyn Fn()| {
            let what = format!("{what}, {shown:?}");
            let run = |format: &str| {
                fault();
                qkey.run(args.iter().chain(&[format]))
            };
            let (text, json) = (run("--output=text"), run("--output=json"));
            assert_safe(&what, &programs, &payload, &text, &json);
        };
        let description = || {
            core.fault(
                "list_keys",
                "status",
                json!({ "status": 404, "description": payload, "error_class": payload,
                "inner": { "error_class": payload, "description": payload } }),
            );
        };
        run("an error", &["keys", "-vv"], &description);
        if !payload.contains(['\n', '\r'])
            && payload.len() < 1_000
            && payload.chars().all(|c| c < '\u{100}')
        {
            let redirect = || {
                core.fault(
                    "list_keys",
                    "redirect",
                    json!({ "location": format!("https://{payload}/") }),
                );
            };
            run("a redirect", &["keys", "-vv"], &redirect);
        }
    }
}

#[test]
fn hostile_agent_comments_are_escaped() {
    let programs = programs();
    let qkey = Qkey::new();
    let socket = qkey.path("agent.sock");
    let qkey = qkey.env("SSH_AUTH_SOCK", socket.to_str().expect("UTF-8"));
    let listener = UnixListener::bind(&socket).expect("a socket");
    // Ends with the test process.
    thread::spawn(move || {
        // Each payload is asked for twice.
        for payload in payloads().iter().flat_map(|payload| [payload; 2]) {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.read_exact(&mut [0; 5]).expect("a request");
            let string = |bytes: &[u8]| {
                let length = u32::try_from(bytes.len()).expect("it is short");
                [&length.to_be_bytes()[..], bytes].concat()
            };
            let identity = [string(b"ssh-x"), string(payload.as_bytes())].concat();
            let answer = [&[12, 0, 0, 0, 1][..], &identity].concat();
            // qkey may hang up early.
            let _ = stream.write_all(&string(&answer));
        }
    });
    for payload in payloads() {
        let run = |format: &str| qkey.run(["pubkey", "ssh-agent:nobody", format]);
        let (text, json) = (run("--output=text"), run("--output=json"));
        assert_eq!(text.code, 3, "{text:?}");
        assert_safe("a comment", &programs, &payload, &text, &json);
    }
}

#[test]
fn prompts_escape_hostile_file_names() {
    let payload = "\u{1b}[2Jpwned\u{202e}\nEnter FAKE";
    let qkey = Qkey::new();
    let encrypted = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:secret", "-in"])
        .arg(qkey.path("alice.pem"))
        .output()
        .expect("openssl runs");
    qkey.write(payload, encrypted.stdout);
    let command = qkey.command_with_terminal(["pubkey", payload]);
    let mut session = Terminal::new().start(command);
    session.answer(
        "Enter the passphrase of \\u{1b}[2Jpwned\\u{202e}\\nEnter FAKE: ",
        "secret",
    );
    let ended = session.end();
    assert!(ended.output.status.success(), "{}", ended.screen);
    assert_harmless("a prompt", &ended.screen);
}

#[test]
fn international_text_stays_readable() {
    let programs = programs();
    let world = World::new(&programs);
    world.holds("Schlüssel 🔑", "鍵 e\u{301} ❤\u{fe0f}", ALICE_PUBLIC);
    let run = world.qkey.run(["keys"]);
    assert!(
        run.stdout.contains("Schlüssel 🔑") && run.stdout.contains("鍵 e\u{301} ❤\u{fe0f}"),
        "{run:?}"
    );
}
