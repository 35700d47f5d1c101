//! `examples/rotate.sh`, killed at every step.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::{
    ceremony::{mock, submissions},
    core::Core,
    mock::Mock,
    qkey::{ALICE_PUBLIC, CAROL_PUBLIC, Qkey, Run, end_sleepers, public_key_base64, wait_until},
    snapshot::{filtered, snapshot},
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use snapbox::str;

/// Where the script keeps alice's key once it is replaced.
const ARCHIVE: &str = "lock.pem.old-qDNOdPfn_SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4";
const ROTATE: [&str; 2] = ["1", "lock.pem"];

/// A folder with `lock.pem`, which is alice's key, and a `bin` with the programs that the script runs.
struct Keys {
    qkey: Qkey,
}

/// Stands for one program that the script runs: notes the step, runs the program, and kills the
/// whole process group before or after the step that STOP names.
const STEP: &str = r#"#!/bin/sh
echo "${0##*/} $*" >>"$STEPS"
step=$(grep -c '' "$STEPS")
[ "${STOP-}" != "before $step" ] || kill -KILL 0
"$REAL/${0##*/}" "$@"
code=$?
[ "${STOP-}" != "after $step" ] || kill -KILL 0
exit $code
"#;

impl Keys {
    fn new(qkey: Qkey) -> Self {
        fs::rename(qkey.path("alice.pem"), qkey.path("lock.pem")).unwrap();
        let [bin, real] = ["bin", "real"].map(|name| qkey.path(name));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&real).unwrap();
        symlink(env!("CARGO_BIN_EXE_qkey"), real.join("qkey")).unwrap();
        for program in ["ln", "mv"] {
            let found = env::split_paths(&env::var_os("PATH").unwrap())
                .map(|folder| folder.join(program))
                .find(|path| path.exists())
                .expect("it is on PATH");
            symlink(found, real.join(program)).unwrap();
        }
        let step = qkey.write_program("step", STEP);
        for program in ["qkey", "ln", "mv"] {
            symlink(&step, bin.join(program)).unwrap();
        }
        Self { qkey }
    }

    /// The script, in a process group of its own.
    fn rotate(&self, args: &[&str]) -> Command {
        let mut path = self.qkey.path("bin").into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap());
        let like = self.qkey.command(args);
        let mut command =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/rotate.sh"));
        command
            .args(args)
            .current_dir(like.get_current_dir().unwrap())
            .env_clear()
            .envs(
                like.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("PATH", path)
            .env("REAL", self.qkey.path("real"))
            .env("STEPS", self.qkey.path("steps"))
            .env("QKEY_NO_INPUT", "1")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let _ = fs::remove_file(self.qkey.path("steps"));
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        self.run_command(&mut self.rotate(args))
    }

    fn run_command(&self, command: &mut Command) -> Run {
        let output = command.output().expect("the script runs");
        self.qkey.taken(&output)
    }

    fn public(&self, file: &str) -> String {
        public_key_base64(&self.qkey.path(file))
    }

    /// The files whose names begin as the key's, without it.
    fn beside(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.qkey.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("lock.pem."))
            .collect();
        names.sort();
        names
    }

    /// The name under which the cluster's key can be used now.
    fn in_use(&self, held: &str) -> Option<&'static str> {
        ["lock.pem", "lock.pem.new"]
            .into_iter()
            .find(|name| self.qkey.path(name).exists() && self.public(name) == held)
    }

    /// Panics unless the key was rotated once, with the old one archived and nothing left over.
    #[track_caller]
    fn assert_rotated(&self, held: &str, what: &str) {
        assert_ne!(held, ALICE_PUBLIC, "{what}");
        assert_eq!(self.public("lock.pem"), held, "{what}");
        assert_eq!(self.beside(), [ARCHIVE], "{what}");
        assert_eq!(self.public(ARCHIVE), ALICE_PUBLIC, "{what}");
        for name in ["lock.pem", ARCHIVE] {
            let metadata = fs::metadata(self.qkey.path(name)).unwrap();
            assert_eq!(
                metadata.permissions().mode() & 0o777,
                0o600,
                "{what}: {name}"
            );
        }
    }

    /// Panics unless nothing was made, moved or changed.
    fn assert_untouched(&self, held: &str) {
        assert_eq!(held, ALICE_PUBLIC);
        assert_eq!(self.public("lock.pem"), ALICE_PUBLIC);
        assert_eq!(self.beside(), [""; 0]);
    }
}

fn held(core: &Core) -> String {
    core.key("1")["public_key"].as_str().unwrap().to_owned()
}

fn kill_group(child: &mut Child) {
    kill_process_group(Pid::from_child(child), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn key_is_rotated() {
    let core = Core::with_lock_key();
    core.modify_key("1", json!({ "name": "vault of böb" }));
    let keys = Keys::new(Qkey::with_rest(&core));
    let run = keys.run(&["vault of böb", "lock.pem"]);
    let new = keys.qkey.line("--output=json pubkey lock.pem").json();
    let new = new["fingerprint"].as_str().unwrap().to_owned();
    snapshot!(
        filtered(&run).replace(&new, "[NEW]"),
        str![[r#"
Replaced key 1 ("vault of böb").
  was SHA256:[ALICE]
  now [NEW]
--- exit 0
rotate.sh: done: the cluster holds ./lock.pem; the old key is ./lock.pem.old-qDNOdPfn_SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

"#]]
    );
    keys.assert_rotated(&held(&core), "a run without faults");
    assert_eq!(core.count("replace_key"), 1);
    let unlock = keys.qkey.line("unlock --id=2 --key=lock.pem");
    assert_eq!(unlock.code, 0, "{unlock:?}");
}

#[test]
fn rotation_killed_at_any_step_resumes() {
    let mut killed = 0;
    for (when, step) in (1..).flat_map(|step| [("before", step), ("after", step)]) {
        let what = format!("killed {when} step {step}");
        let core = Core::with_lock_key();
        let keys = Keys::new(Qkey::with_rest(&core));
        let mut command = keys.rotate(&ROTATE);
        let output = command
            .env("STOP", format!("{when} {step}"))
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{what}: {output:?}");
        killed += 1;
        assert!(keys.in_use(&held(&core)).is_some(), "{what}");
        let unlock = "unlock --dry-run --id=2 --key=lock.pem --key=lock.pem.new";
        let unlock = keys.qkey.line(unlock);
        assert_eq!(unlock.code, 0, "{what}: {unlock:?}");

        // Once the new key has its name, nothing is left to do, and only --finish says so.
        let run = keys.run(&["--finish", "1", "lock.pem"]);
        assert_eq!(run.code, 0, "{what}: {run:?}");
        if held(&core) == ALICE_PUBLIC {
            assert_eq!(keys.beside(), [""; 0], "{what}: nothing was begun");
            let run = keys.run(&ROTATE);
            assert_eq!(run.code, 0, "{what}: {run:?}");
        }
        keys.assert_rotated(&held(&core), &what);
        assert_eq!(core.count("replace_key"), 1, "{what}");
    }
    // qkey five times (the old key held, generate, replace, the new key held, pubkey), ln, mv.
    assert_eq!(killed, 14);
}

#[test]
fn rotation_killed_during_submission_resumes() {
    for (fault, submitted) in [("hang", 2), ("hang-with-grandchild-and-stay", 1)] {
        let mock = mock();
        let keys = Keys::new(Qkey::with_mock(&mock));
        mock.fault("fs_security_replace_key", fault);
        let mut child = keys.rotate(&ROTATE).spawn().unwrap();
        wait_until(fault, || !mock.sleepers().is_empty());
        // Another rotation does not interfere.
        let second = keys.run(&ROTATE);
        snapshot!(
            filtered(&second),
            str![[r#"
--- exit 1
rotate.sh: another rotation is running in ./

"#]]
        );
        kill_group(&mut child);
        assert!(keys.in_use(&mock.public_key("1")).is_some(), "{fault}");

        // What the killed qkey had started still sleeps, and does not interfere either.
        let run = keys.run(&ROTATE);
        assert_eq!(run.code, 0, "{fault}: {run:?}");
        keys.assert_rotated(&mock.public_key("1"), fault);
        assert_eq!(submissions(&mock), submitted, "{fault}");
        end_sleepers(&mock);
    }
}

/// The script goes by the exit code of `qkey`: one fault for each.
#[test]
fn failed_rotation_stops_and_resumes() {
    let cases = [
        ("replace_key", "drop_after", json!({}), 0),
        ("replace_key", "stale", json!({}), 0),
        ("replace_key", "status", json!({ "status": 400 }), 5),
        ("replace_key", "status", json!({ "status": 403 }), 6),
        (
            "replace_key",
            "status",
            json!({ "status": 429, "retry_after": 0 }),
            7,
        ),
        ("replace_key", "drop_before", json!({}), 8),
    ];
    for (on, kind, more, code) in cases {
        let core = Core::with_lock_key();
        let keys = Keys::new(Qkey::with_rest(&core));
        core.fault(on, kind, more);
        let run = keys.run(&ROTATE);
        assert_eq!(run.code, code, "{kind}: {run:?}");
        assert!(keys.in_use(&held(&core)).is_some(), "{kind}");
        if code != 0 {
            assert_eq!(keys.beside(), ["lock.pem.new"], "{kind}");
            let run = keys.run(&ROTATE);
            assert_eq!(run.code, 0, "{kind}: {run:?}");
        }
        keys.assert_rotated(&held(&core), kind);
    }
}

#[test]
fn unconfirmed_rotation_stops_and_resumes() {
    let core = Core::with_lock_key();
    let keys = Keys::new(Qkey::with_rest(&core));
    // The reply is lost, and every attempt to look fails.
    core.fault("replace_key", "drop_after", json!({}));
    core.fault("list_keys", "slow", json!({ "seconds": 0, "times": 2 }));
    core.fault("list_keys", "status", json!({ "status": 503, "times": 0 }));
    for code in [8, 7] {
        let run = keys.run(&ROTATE);
        assert_eq!(run.code, code, "{run:?}");
        assert_eq!(keys.beside(), ["lock.pem.new"]);
    }
    core.clear_faults();
    let run = keys.run(&ROTATE);
    assert_eq!(run.code, 0, "{run:?}");
    keys.assert_rotated(&held(&core), "the third run");
    assert_eq!(core.count("replace_key"), 1);
}

#[test]
fn wrong_old_key_makes_no_new_key() {
    let core = Core::with_lock_key();
    let keys = Keys::new(Qkey::with_rest(&core));
    snapshot!(
        filtered(&keys.run(&["1", "bob.pem"])),
        str![[r#"
--- exit 4
error: ./bob.pem (SHA256:[BOB…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[ALICE…]

"#]]
    );
    // --finish starts nothing.
    snapshot!(
        filtered(&keys.run(&["--finish", "1", "lock.pem"])),
        str![[r#"
--- exit 0
rotate.sh: nothing to finish: the cluster holds ./lock.pem

"#]]
    );
    assert_eq!(keys.run(&["--finish", "1", "bob.pem"]).code, 4);
    keys.assert_untouched(&held(&core));
    assert!(!keys.qkey.path("bob.pem.new").exists());
    assert_eq!(core.count("replace_key"), 0);
}

#[test]
fn key_replaced_by_someone_else_is_kept() {
    let mock = mock();
    let keys = Keys::new(Qkey::with_mock(&mock));
    mock.fault("fs_security_replace_key", "drop-before");
    assert_eq!(keys.run(&ROTATE).code, 8);
    mock.set_key_field("1", "public_key", CAROL_PUBLIC);
    snapshot!(
        filtered(&keys.run(&ROTATE)),
        str![[r#"
--- exit 4
rotate.sh: continuing with ./lock.pem.new
error: ./lock.pem (SHA256:[ALICE…]) does not match key 1 ("lock-2026")
hint: nothing was sent; you need the private key for SHA256:[CAROL…]

"#]]
    );
    assert_eq!(keys.public("lock.pem"), ALICE_PUBLIC);
    assert_eq!(keys.beside(), ["lock.pem.new"]);
}

#[test]
fn encrypted_key_file_is_replaced_by_encrypted_one() {
    let mock = Mock::new();
    let keys = Keys::new(Qkey::with_mock(&mock));
    keys.qkey.write("pass phrase", "correct horse\n");
    let attributes = "passphrase-file=pass%20phrase";
    let source = format!("safe.pem?{attributes}");
    assert_eq!(keys.qkey.run(["generate", &source]).code, 0);
    let public = |source: &str| {
        let run = keys.qkey.run(["pubkey", "--format=base64", source]);
        assert_eq!(run.code, 0, "{run:?}");
        run.stdout.trim().to_owned()
    };
    let old = public(&source);
    mock.add_key("safe", "", &old);
    let mut command = keys.rotate(&["safe", "safe.pem"]);
    let run = keys.run_command(command.env("ROTATE_ATTRIBUTES", attributes));
    assert_eq!(run.code, 0, "{run:?}");
    assert_ne!(mock.public_key("1"), old);
    assert_eq!(mock.public_key("1"), public(&source));
    let text = fs::read_to_string(keys.qkey.path("safe.pem")).unwrap();
    assert!(
        text.contains("ENCRYPTED"),
        "the new file is encrypted as well"
    );
}

#[test]
fn odd_file_names_work() {
    let mock = mock();
    let keys = Keys::new(Qkey::with_mock(&mock));
    for name in ["-x", "a b", "q:r%", "sub/ключ"] {
        let file = keys
            .qkey
            .write(name, fs::read(keys.qkey.path("lock.pem")).unwrap());
        mock.set_key_field("1", "public_key", ALICE_PUBLIC);
        let run = keys.run(&["1", name]);
        assert_eq!(run.code, 0, "{name}: {run:?}");
        assert_eq!(public_key_base64(&file), mock.public_key("1"), "{name}");
    }
}

#[test]
fn unrotatable_sources_are_reported() {
    let core = Core::with_lock_key();
    let keys = Keys::new(Qkey::with_rest(&core));
    symlink("lock.pem", keys.qkey.path("link.pem")).unwrap();
    for (args, code, words) in [
        (&[][..], 2, "usage: rotate.sh"),
        (&["vault"], 2, "usage: rotate.sh"),
        (&["vault", "lock.pem", "new.pem"], 2, "usage: rotate.sh"),
        (&["vault", "none.pem"], 3, "./none.pem does not exist"),
        (&["vault", "none/none.pem"], 2, "none"),
        (&["vault", "link.pem"], 2, "./link.pem is a symbolic link"),
        (&["vault", "."], 2, "./. is a directory"),
        (&["vault", "a?b"], 2, "a question mark"),
        (&["lock-2062", "lock.pem"], 5, "did you mean \"lock-2026\"?"),
    ] {
        let run = keys.run(args);
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        assert!(run.stderr.contains(words), "{args:?}: {run:?}");
    }
    keys.assert_untouched(&held(&core));
}

#[test]
fn existing_archive_is_left_alone() {
    let core = Core::with_lock_key();
    let keys = Keys::new(Qkey::with_rest(&core));
    keys.qkey.write(ARCHIVE, "notes\n");
    let run = keys.run(&ROTATE);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("then run this again"), "{run:?}");
    assert_eq!(keys.public("lock.pem"), ALICE_PUBLIC);
    assert_eq!(keys.in_use(&held(&core)), Some("lock.pem.new"));

    // As it says: a copy made by hand does as well.
    fs::copy(keys.qkey.path("lock.pem"), keys.qkey.path(ARCHIVE)).unwrap();
    assert_eq!(keys.run(&ROTATE).code, 0);
    keys.assert_rotated(&held(&core), "after the copy");
}
