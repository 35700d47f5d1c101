//! `examples/rotate.sh`: over the mock `qq` and straight to the REST API, killed at every step, and
//! over the real `qq`.

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
    core::{Core, QQ_VERSION},
    mock::Mock,
    qkey::{ALICE_PUBLIC, CAROL_PUBLIC, Qkey, Run, public_key_base64, wait_until},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use snapbox::{assert_data_eq, str};

/// The folder that holds `lock.pem`, which is alice's key, beside a `bin` from which the script takes what it runs.
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

    /// A mock cluster that holds the key as key 1, named "vault", with snapshot 2 locked.
    fn with_mock(mock: &Mock) -> Self {
        let keys = Self::new(Qkey::with_mock(mock));
        assert_eq!(mock.add_key("vault", "", ALICE_PUBLIC), "1");
        mock.set_snapshot_field(2, "lock_key", "1");
        keys
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
    fn assert_rotated(&self, held: &str, what: &str) {
        assert_ne!(held, ALICE_PUBLIC, "{what}: the cluster holds another key");
        assert_eq!(
            self.public("lock.pem"),
            held,
            "{what}: and that is the one in use"
        );
        let beside = self.beside();
        assert_eq!(
            beside,
            ["lock.pem.old-qDNOdPfn_SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4"],
            "{what}: only the old key is beside it"
        );
        assert_eq!(
            self.public(&beside[0]),
            ALICE_PUBLIC,
            "{what}: it is the old key"
        );
        for name in ["lock.pem", &beside[0]] {
            let mode = fs::metadata(self.qkey.path(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{what}: {name}");
        }
    }

    /// Panics unless nothing was made, moved or changed.
    fn assert_untouched(&self, held: &str) {
        assert_eq!(held, ALICE_PUBLIC);
        assert_eq!(self.public("lock.pem"), ALICE_PUBLIC);
        assert!(self.beside().is_empty(), "{:?}", self.beside());
    }
}

/// Ends what a fault has left sleeping.
fn end_sleepers(mock: &Mock) {
    for sleeper in mock.sleepers() {
        let _ = kill_process(pid(sleeper), Signal::KILL);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

fn kill_group(child: &mut Child) {
    kill_process_group(pid(child.id()), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_key_is_rotated() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    let run = keys.run(&["vault", "lock.pem"]);
    let new = public_fingerprint(&keys, "lock.pem");
    assert_data_eq!(
        run.transcript().replace(&new, "[NEW]"),
        str![[r#"
Replaced key 1 ("vault").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now [NEW]
--- exit 0
rotate.sh: done: the cluster holds ./lock.pem; the old key is ./lock.pem.old-qDNOdPfn_SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4

"#]]
    );
    keys.assert_rotated(&mock.public_key("1"), "a run without faults");
    assert_eq!(mock.count("fs_security_replace_key"), 1);
    let unlock = keys.qkey.run(["unlock", "--id=2", "--key=lock.pem"]);
    assert_eq!((unlock.code, mock.lock_key(2)), (0, None), "{unlock:?}");
}

fn public_fingerprint(keys: &Keys, file: &str) -> String {
    let key = keys.qkey.run(["--output=json", "pubkey", file]).json();
    key["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn a_key_is_rotated_through_the_real_qq() {
    a_key_is_rotated_although_the_answer_is_lost(|core| Qkey::with_core(core, QQ_VERSION));
}

#[test]
fn a_key_is_rotated_straight_over_rest() {
    a_key_is_rotated_although_the_answer_is_lost(Qkey::with_rest);
}

fn a_key_is_rotated_although_the_answer_is_lost(qkey: impl Fn(&Core) -> Qkey) {
    let core = Core::start();
    let keys = Keys::new(qkey(&core));
    let id = core.add_key(json!({ "name": "vault of böb", "public_key": ALICE_PUBLIC }));
    core.add_snapshot(json!({ "id": 7, "lock_key": id }));
    let held = || core.key(&id)["public_key"].as_str().unwrap().to_owned();

    // The answer is lost, and so is every attempt to look: four, of three requests each.
    core.fault("replace_key", "drop_after", json!({}));
    core.fault("list_keys", "slow", json!({ "seconds": 0, "times": 2 }));
    core.fault("list_keys", "status", json!({ "status": 503, "times": 12 }));
    let run = keys.run(&["vault of böb", "lock.pem"]);
    assert_eq!(run.code, 8, "{run:?}");
    assert_eq!(keys.in_use(&held()), Some("lock.pem.new"));

    let run = keys.run(&["vault of böb", "lock.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
    keys.assert_rotated(&held(), "a second run");
    assert_eq!(core.count("replace_key"), 1);
    let unlock = keys.qkey.run(["unlock", "--id=7", "--key=lock.pem"]);
    assert_eq!(unlock.code, 0, "{unlock:?}");
    assert_eq!(core.snapshot(7)["lock_key"], json!(null));
}

/// A cluster that holds alice's key as key 1, named "vault", which locks snapshot 2.
trait Vault {
    fn keys(&self) -> Keys;
    /// The public key that it holds.
    fn held(&self) -> String;
    fn replacements(&self) -> usize;
}

impl Vault for Mock {
    fn keys(&self) -> Keys {
        Keys::with_mock(self)
    }

    fn held(&self) -> String {
        self.public_key("1")
    }

    fn replacements(&self) -> usize {
        self.count("fs_security_replace_key")
    }
}

/// Over REST.
impl Vault for Core {
    fn keys(&self) -> Keys {
        self.add_key(json!({ "name": "vault", "public_key": ALICE_PUBLIC }));
        self.add_snapshot(json!({ "id": 2, "lock_key": "1" }));
        Keys::new(Qkey::with_rest(self))
    }

    fn held(&self) -> String {
        self.key("1")["public_key"].as_str().unwrap().to_owned()
    }

    fn replacements(&self) -> usize {
        self.count("replace_key")
    }
}

#[test]
fn killed_at_any_step_resumes() {
    killed_at_any_step(Mock::new);
}

#[test]
fn killed_at_any_step_over_rest_resumes() {
    killed_at_any_step(Core::start);
}

fn killed_at_any_step<V: Vault>(new: impl Fn() -> V) {
    let mut killed = 0;
    for (when, step) in (1..).flat_map(|step| [("before", step), ("after", step)]) {
        let what = format!("killed {when} step {step}");
        let vault = new();
        let keys = vault.keys();
        let mut command = keys.rotate(&["vault", "lock.pem"]);
        let output = command
            .env("STOP", format!("{when} {step}"))
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{what}: {output:?}");
        killed += 1;
        assert!(
            keys.in_use(&vault.held()).is_some(),
            "{what}: the cluster's key is at hand"
        );
        let unlock = [
            "unlock",
            "--dry-run",
            "--id=2",
            "--key=lock.pem",
            "--key=lock.pem.new",
        ];
        let unlock = keys.qkey.run(unlock);
        assert_eq!(unlock.code, 0, "{what}: {unlock:?}");

        // Once the new key has its name nothing is left to do, and only --finish says so.
        let run = keys.run(&["--finish", "vault", "lock.pem"]);
        assert_eq!(run.code, 0, "{what}: {run:?}");
        if vault.held() == ALICE_PUBLIC {
            assert!(keys.beside().is_empty(), "{what}: nothing was begun yet");
            let run = keys.run(&["vault", "lock.pem"]);
            assert_eq!(run.code, 0, "{what}: {run:?}");
        }
        keys.assert_rotated(&vault.held(), &what);
        assert_eq!(vault.replacements(), 1, "{what}");
    }
    // qkey six times (the old key held, generate, replace, the new key held, pubkey), ln, mv.
    assert_eq!(killed, 14);
}

#[test]
fn killed_during_submission_resumes() {
    for (command, nth, fault, submissions) in [
        ("fs_security_list_keys", 1, "hang", 1),
        ("fs_security_list_keys", 2, "hang", 1),
        ("fs_security_list_keys", 3, "hang", 1),
        ("fs_security_get_key_replace_challenge", 2, "hang-after", 1),
        ("fs_security_replace_key", 1, "hang", 2),
        ("fs_security_replace_key", 1, "hang-after", 1),
        (
            "fs_security_replace_key",
            1,
            "hang-with-grandchild-and-stay",
            1,
        ),
    ] {
        let what = format!("{fault} at {command} {nth}");
        let mock = Mock::new();
        let keys = Keys::with_mock(&mock);
        for _ in 1..nth {
            mock.fault(command, "");
        }
        mock.fault(command, fault);
        let mut child = keys.rotate(&["1", "lock.pem"]).spawn().unwrap();
        wait_until(&what, || !mock.sleepers().is_empty());
        kill_group(&mut child);
        assert!(keys.in_use(&mock.public_key("1")).is_some(), "{what}");

        // What the killed qkey had started still sleeps, and is in nobody's way.
        let run = keys.run(&["1", "lock.pem"]);
        assert_eq!(run.code, 0, "{what}: {run:?}");
        keys.assert_rotated(&mock.public_key("1"), &what);
        assert_eq!(mock.count("fs_security_replace_key"), submissions, "{what}");
        end_sleepers(&mock);
    }
}

#[test]
fn lost_reply_or_refusal_stops_and_resumes() {
    // Each with the code of the first run.
    for (fault, code) in [
        ("drop-after", 0),
        ("drop-before", 8),
        ("timeout-after", 0),
        ("timeout-before", 8),
        ("kill-9-after", 0),
        ("kill-9", 8),
        ("garbage-after", 0),
        ("garbage", 8),
        ("empty-after", 0),
        ("truncated", 0),
        ("traceback-after", 0),
        ("refused-connection", 7),
        ("status 503 http_service_unavailable_error Later.", 8),
        ("status 403 http_forbidden_error No.", 6),
        ("status 400 invalid_request_error No.", 5),
        ("unauthenticated", 6),
        ("stale", 0),
    ] {
        let mock = Mock::new();
        let keys = Keys::with_mock(&mock);
        mock.fault("fs_security_replace_key", fault);
        let run = keys.run(&["vault", "lock.pem"]);
        assert_eq!(run.code, code, "{fault}: {run:?}");
        assert!(keys.in_use(&mock.public_key("1")).is_some(), "{fault}");
        if code != 0 {
            assert_eq!(keys.beside(), ["lock.pem.new"], "{fault}");
            let run = keys.run(&["vault", "lock.pem"]);
            assert_eq!(run.code, 0, "{fault}: {run:?}");
        }
        keys.assert_rotated(&mock.public_key("1"), fault);
    }
}

#[test]
fn unreadable_cluster_stops_and_resumes() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    mock.fault("fs_security_replace_key", "drop-after");
    for fault in ["", "", "always drop-before"] {
        mock.fault("fs_security_list_keys", fault);
    }
    let run = keys.run(&["vault", "lock.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 8
error: the request to replace key 1 ("vault") was sent, but the result could not be confirmed
  caused by: lost the connection to cluster:8000 during the request to replace key 1: Remote end closed connection without response
hint: keep every key; `[QQ] --host=cluster fs_security_list_keys` shows whether it was done; rerunning is safe: qkey looks first

"#]]
    );
    assert_eq!(keys.beside(), ["lock.pem.new"]);

    let run = keys.run(&["vault", "lock.pem"]);
    assert_eq!(run.code, 7, "{run:?}");
    assert_eq!(keys.beside(), ["lock.pem.new"]);

    fs::remove_file(mock.state().join("faults/fs_security_list_keys")).unwrap();
    let run = keys.run(&["vault", "lock.pem"]);
    assert_eq!(run.code, 0, "{run:?}");
    keys.assert_rotated(&mock.public_key("1"), "the third run");
    assert_eq!(mock.count("fs_security_replace_key"), 1);
}

#[test]
fn wrong_old_key_makes_no_new_key() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    let run = keys.run(&["vault", "bob.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 4
error: ./bob.pem (SHA256:Bigzvx05JkuL) does not match key 1 ("vault")
hint: nothing was sent; you need the private key for SHA256:qDNOdPfn/SvG

"#]]
    );
    keys.assert_untouched(&mock.public_key("1"));
    assert!(!keys.qkey.path("bob.pem.new").exists());
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn key_replaced_by_another_admin_is_kept() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    mock.fault("fs_security_replace_key", "drop-before");
    assert_eq!(keys.run(&["vault", "lock.pem"]).code, 8);
    mock.set_key_field("1", "public_key", CAROL_PUBLIC);
    let run = keys.run(&["vault", "lock.pem"]);
    assert_data_eq!(
        run.transcript(),
        str![[r#"
--- exit 4
rotate.sh: continuing with ./lock.pem.new
error: ./lock.pem (SHA256:qDNOdPfn/SvG) does not match key 1 ("vault")
hint: nothing was sent; you need the private key for SHA256:JSkAIR0avXSX

"#]]
    );
    assert_eq!(keys.public("lock.pem"), ALICE_PUBLIC);
    assert_eq!(keys.beside(), ["lock.pem.new"]);
}

#[test]
fn finish_starts_nothing() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    assert_data_eq!(
        keys.run(&["--finish", "vault", "lock.pem"]).transcript(),
        str![[r#"
--- exit 0
rotate.sh: nothing to finish: the cluster holds ./lock.pem

"#]]
    );
    assert_eq!(keys.run(&["--finish", "vault", "bob.pem"]).code, 4);
    keys.assert_untouched(&mock.public_key("1"));
}

#[test]
fn concurrent_rotations_do_not_mix() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    mock.fault("fs_security_replace_key", "hang");
    let mut first = keys.rotate(&["vault", "lock.pem"]).spawn().unwrap();
    wait_until("the first submission", || !mock.sleepers().is_empty());
    let second = keys.run(&["vault", "lock.pem"]);
    assert_data_eq!(
        second.transcript(),
        str![[r#"
--- exit 1
rotate.sh: another rotation is running in ./

"#]]
    );
    kill_group(&mut first);
    end_sleepers(&mock);
    assert_eq!(keys.run(&["vault", "lock.pem"]).code, 0);
    keys.assert_rotated(&mock.public_key("1"), "after both");
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
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
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
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
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
        (&["valt", "lock.pem"], 5, "did you mean \"vault\"?"),
    ] {
        let run = keys.run(args);
        assert_eq!(run.code, code, "{args:?}: {run:?}");
        assert!(run.stderr.contains(words), "{args:?}: {run:?}");
    }
    keys.assert_untouched(&mock.public_key("1"));
}

#[test]
fn existing_archive_is_left_alone() {
    let mock = Mock::new();
    let keys = Keys::with_mock(&mock);
    let archive = "lock.pem.old-qDNOdPfn_SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4";
    keys.qkey.write(archive, "notes\n");
    let run = keys.run(&["vault", "lock.pem"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("then run this again"), "{run:?}");
    assert_eq!(keys.public("lock.pem"), ALICE_PUBLIC);
    assert_eq!(keys.in_use(&mock.public_key("1")), Some("lock.pem.new"));

    // As it says: a copy of one's own does as well.
    fs::copy(keys.qkey.path("lock.pem"), keys.qkey.path(archive)).unwrap();
    assert_eq!(keys.run(&["vault", "lock.pem"]).code, 0);
    keys.assert_rotated(&mock.public_key("1"), "after the copy");
}
