//! What only happens on a terminal: prompts, colors, and binary output that is held back.

use std::process::Stdio;

use crate::support::{
    key_source::encrypt,
    mock::Mock,
    qkey::{ALICE_PUBLIC, BOB_PUBLIC, Qkey},
    session::assert_cases,
    shell::{command_with_terminal, prints},
    terminal::{Ended, Session, Terminal},
};
use snapbox::{IntoData, assert_data_eq, str};

/// `locked.pem` is Alice's key under the passphrase `open sesame`.
fn with_locked_key() -> Qkey {
    let qkey = Qkey::new();
    encrypt(&qkey, "alice.pem", "locked.pem", "open sesame");
    qkey
}

/// `qkey` on a terminal, with pipes for stdin, stdout and stderr.
fn start(qkey: &Qkey, args: &[&str]) -> Session {
    Terminal::new().start(qkey.command_with_terminal(args))
}

/// `qkey` with a terminal for everything.
fn start_interactively(qkey: &Qkey, args: &[&str]) -> Session {
    let terminal = Terminal::new();
    let mut command = qkey.command_with_terminal(args);
    command
        .env("TERM", "xterm")
        .stdin(terminal.stream())
        .stdout(terminal.stream())
        .stderr(terminal.stream());
    terminal.start(command)
}

/// Everything that came of it, for snapshots.
fn transcript(qkey: &Qkey, ended: &Ended) -> String {
    let echo = if ended.echoes { "shown" } else { "hidden" };
    let run = qkey.taken(&ended.output).transcript();
    format!("{run}--- terminal (typing is {echo})\n{}", ended.screen)
}

const PROMPT: &str = "Enter the passphrase of locked.pem: ";
const NEW: &str = "Enter a new passphrase for new.pem: ";
const AGAIN: &str = "Enter the new passphrase for new.pem again: ";

/// What is typed at each prompt, and what comes of it. Of keys without Return: the erase character of a
/// new terminal is DEL.
#[test]
fn prompts_hide_what_is_typed_and_restore_the_terminal() {
    let told = [
        (
            "pubkey locked.pem --format base64",
            &["open sesamy\u{7f}e\n"][..],
        ),
        (
            "pubkey locked.pem --format base64",
            &["open barley\n", "\n", "open sesame\n"],
        ),
        ("pubkey locked.pem", &["1\n", "2\n", "3\n"]),
        ("pubkey locked.pem", &["open\u{3}"]),
        ("pubkey locked.pem", &["\u{4}"]),
        ("pubkey locked.pem --no-input", &[]),
        (
            "generate --encrypt new.pem",
            &["open sesame\n", "open barley\n"],
        ),
        ("generate --encrypt new.pem", &["open sesame\n", "\u{3}"]),
    ]
    .map(|(line, typed)| {
        let qkey = with_locked_key();
        let args: Vec<&str> = line.split(' ').collect();
        let mut session = start(&qkey, &args);
        for (number, text) in typed.iter().enumerate() {
            session.wait_for(match (line.starts_with("generate"), number) {
                (true, 0) => NEW,
                (true, _) => AGAIN,
                (false, _) => PROMPT,
            });
            assert!(!session.echoes(), "{line} shows what is typed");
            session.type_in(text);
        }
        let told = transcript(&qkey, &session.end());
        assert!(!qkey.path("new.pem").exists(), "{line}");
        format!("==== {line} {typed:?}\n{told}")
    });
    assert_data_eq!(told.concat(), str![[r#"
==== pubkey locked.pem --format base64 ["open sesamy\u{7f}e\n"]
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
==== pubkey locked.pem --format base64 ["open barley\n", "\n", "open sesame\n"]
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- exit 0
warning: wrong passphrase for locked.pem (attempt 1 of 3)
warning: wrong passphrase for locked.pem (attempt 2 of 3)
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 
==== pubkey locked.pem ["1\n", "2\n", "3\n"]
--- exit 3
warning: wrong passphrase for locked.pem (attempt 1 of 3)
warning: wrong passphrase for locked.pem (attempt 2 of 3)
error: cannot use the key file locked.pem
  caused by: wrong passphrase
hint: to test a passphrase: `openssl pkey -in locked.pem -noout`, or for OpenSSH's format `ssh-keygen -y -f locked.pem`
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 
==== pubkey locked.pem ["open\u{3}"]
--- exit 130
error: interrupted while waiting for the passphrase of locked.pem
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
==== pubkey locked.pem ["\u{4}"]
--- exit 3
error: no passphrase entered for locked.pem
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
==== pubkey locked.pem --no-input []
--- exit 3
error: locked.pem is encrypted, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
--- terminal (typing is shown)
==== generate --encrypt new.pem ["open sesame\n", "open barley\n"]
--- exit 3
error: Passphrases do not match.
hint: run the command again
--- terminal (typing is shown)
Enter a new passphrase for new.pem: 
Enter the new passphrase for new.pem again: 
==== generate --encrypt new.pem ["open sesame\n", "\u{3}"]
--- exit 130
error: interrupted while waiting for the passphrase of new.pem
--- terminal (typing is shown)
Enter a new passphrase for new.pem: 
Enter the new passphrase for new.pem again: 

"#]].raw());
}

/// With a terminal for stdin, stdout, and stderr, too.
#[test]
fn output_after_a_prompt_begins_a_line() {
    let qkey = with_locked_key();
    let told = ["open sesame\n", "\u{3}", "\u{4}"].map(|typed| {
        let args = ["--color=never", "sign", "--key=locked.pem", "lock-2026"];
        let mut session = start_interactively(&qkey, &args);
        session.wait_for(PROMPT);
        session.type_in(typed);
        format!("==== {typed:?}\n{}", transcript(&qkey, &session.end()))
    });
    assert_data_eq!(told.concat(), str![[r#"
==== "open sesame\n"
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=
==== "\u{3}"
--- exit 130
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
error: interrupted while waiting for the passphrase of locked.pem
==== "\u{4}"
--- exit 3
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
error: no passphrase entered for locked.pem
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source

"#]].raw());
}

#[test]
fn prompt_is_on_the_terminal_whatever_stdin_and_stderr_are() {
    let qkey = with_locked_key();
    qkey.write("challenge", "lock-2026");
    let terminal = Terminal::new();
    let mut command = qkey.command_with_terminal(["sign", "--key", "locked.pem"]);
    command.stdin(std::fs::File::open(qkey.path("challenge")).unwrap());
    command.stderr(Stdio::null());
    // It does not answer the prompt.
    terminal.type_ahead("open barley\n");
    let mut session = terminal.start(command);
    session.answer(PROMPT, "open sesame");
    let run = qkey.taken(&session.end().output);
    let expected = prints(&qkey, "qkey sign --key alice.pem lock-2026");
    assert_eq!(run.stdout, expected);
}

#[test]
fn generate_encrypts_with_what_was_typed_twice() {
    let qkey = Qkey::new();
    let mut session = start(&qkey, &["generate", "--encrypt", "new.pem"]);
    session.answer(NEW, "open sesame");
    session.answer(AGAIN, "open sesame");
    assert_eq!(session.end().output.status.code(), Some(0));
    let check = "openssl pkey -in new.pem -passin pass:'open sesame' -noout";
    prints(&qkey, check);
}

#[test]
fn sigterm_at_a_prompt_restores_the_terminal() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem", "--output", "json"]);
    session.wait_for(PROMPT);
    let pid = rustix::process::Pid::from_raw(session.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_data_eq!(transcript(&qkey, &session.end()), str![[r#"
--- exit 143
{"error":{"kind":"terminated","message":"interrupted while waiting for the passphrase of locked.pem","causes":[],"hint":null,"exit_code":143}}
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

"#]].raw());
}

#[test]
fn replace_prompts_for_the_old_key_then_the_new_and_sends_nothing_if_interrupted() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    encrypt(&qkey, "alice.pem", "old.pem", "the old one");
    encrypt(&qkey, "bob.pem", "new.pem", "the new one");
    mock.add_key("lock", "", ALICE_PUBLIC);
    let args = [
        "replace",
        "-k=lock",
        "--old-key=old.pem",
        "--new-key=new.pem",
    ];
    let mut session = start(&qkey, &args);
    session.answer("Enter the passphrase of old.pem: ", "the old one");
    session.wait_for("Enter the passphrase of new.pem: ");
    session.type_in("\u{3}");
    assert_eq!(session.end().output.status.code(), Some(130));
    assert_eq!(mock.count("fs_security_replace_key"), 0);
    let mut session = start(&qkey, &args);
    session.answer("Enter the passphrase of old.pem: ", "the old one");
    session.answer("Enter the passphrase of new.pem: ", "the new one");
    assert_eq!(session.end().output.status.code(), Some(0));
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn no_prompt_for_a_key_that_does_not_match() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    encrypt(&qkey, "bob.pem", "locked.pem", "open sesame");
    let key = mock.add_key("lock", "", ALICE_PUBLIC);
    mock.set_snapshot_field(1, "lock_key", &key);
    qkey.configure(
        "[keys.bob]\nsource = \"../../locked.pem\"\n[keys.zoe]\nsource = \"../../alice.pem\"\n",
    );
    assert_data_eq!(
        transcript(&qkey, &start(&qkey, &["unlock", "--id", "1"]).end()),
        str![[r#"
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock").
--- terminal (typing is shown)

"#]]
        .raw()
    );
}

#[test]
fn binary_output_is_not_written_to_a_terminal() {
    let qkey = Qkey::new();
    assert_cases!(
        str![[r#"
==== pubkey alice.pem --format der
==== sign --key alice.pem x --format der
==== sign --key alice.pem x --format p1363
--- exit 2
--- terminal (typing is shown)
error: refusing to write binary output to the terminal
hint: redirect it with `> FILE`, or choose another --format
==== sign --key alice.pem x --format hex
--- terminal (typing is shown)
304402206a20d318204d225a6ebe18559eb629f596119787fb4624eaf3ea36107d95afa902202f3c39f37380ee5965c5c5059fc008369a49d74a08136df032d05244b65e75cc
==== pubkey alice.pem --format der --output json
--- terminal (typing is shown)
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}

"#]],
        |line| {
            let args: Vec<&str> = "--color=never".split(' ').chain(line.split(' ')).collect();
            transcript(&qkey, &start_interactively(&qkey, &args).end())
        }
    );
}

#[test]
fn errors_are_colored_on_a_terminal_unless_turned_off() {
    let qkey = Qkey::new();
    let mut text = String::new();
    for (variables, args) in [
        (&[][..], &[][..]),
        (&[], &["--color=never"]),
        (&[], &["--color=always"]),
        (&[("NO_COLOR", "1")], &[]),
        (&[("NO_COLOR", "1")], &["--color=always"]),
        (&[("QKEY_COLOR", "never")], &[]),
        (&[("TERM", "dumb")], &[]),
        (&[("CLICOLOR", "0")], &[]),
    ] {
        let mut shown = Vec::new();
        for on_terminal in [true, false] {
            let terminal = Terminal::new();
            let mut command = qkey.command_with_terminal([&["pubkey", "none.pem"], args].concat());
            command.env("TERM", "xterm").envs(variables.iter().copied());
            if on_terminal {
                command.stderr(terminal.stream());
            }
            let ended = terminal.start(command).end();
            let stderr = String::from_utf8_lossy(&ended.output.stderr);
            let colored = ended.screen.contains('\u{1b}') || stderr.contains('\u{1b}');
            let color = if colored { "colors" } else { "plain" };
            shown.push(color);
        }
        text += &format!(
            "{variables:?} {args:?}: terminal {}, pipe {}\n",
            shown[0], shown[1]
        );
    }
    assert_data_eq!(
        text,
        str![[r#"
[] []: terminal colors, pipe plain
[] ["--color=never"]: terminal plain, pipe plain
[] ["--color=always"]: terminal colors, pipe colors
[("NO_COLOR", "1")] []: terminal plain, pipe plain
[("NO_COLOR", "1")] ["--color=always"]: terminal colors, pipe colors
[("QKEY_COLOR", "never")] []: terminal plain, pipe plain
[("TERM", "dumb")] []: terminal plain, pipe plain
[("CLICOLOR", "0")] []: terminal plain, pipe plain

"#]]
        .raw()
    );
}

#[test]
fn only_labels_are_colored() {
    let qkey = Qkey::new();
    let terminal = Terminal::new();
    let mut command = qkey.command_with_terminal(["sign", "--key", "none.pem", "x\n", "-vv"]);
    command.env("TERM", "xterm").stderr(terminal.stream());
    let ended = terminal.start(command).end();
    assert_data_eq!(
        ended.screen.replace('\u{1b}', "ESC"),
        str![[r#"
ESC[1mESC[33mwarning:ESC[0m the trailing newline was signed too; the cluster will reject this (use `jq -j`)
ESC[1mESC[31merror:ESC[0m cannot read the key file none.pem
  caused by: No such file or directory (os error 2)
ESC[1mESC[36mhint:ESC[0m check the path

"#]].raw()
    );
}

#[test]
fn json_is_never_colored() {
    let qkey = Qkey::new();
    let terminal = Terminal::new();
    let args = ["pubkey", "none.pem", "--output", "json", "--color=always"];
    let mut command = qkey.command_with_terminal(args);
    command.env("TERM", "xterm").stderr(terminal.stream());
    let ended = terminal.start(command).end();
    assert!(
        serde_json::from_str::<serde_json::Value>(&ended.screen).is_ok(),
        "{}",
        ended.screen
    );
}

/// `qkey` as a job of a shell on the terminal, so that it can be stopped.
fn start_as_job(qkey: &Qkey, line: &str) -> Session {
    let line = format!("exec bash -c 'set -m; {line}; echo \"ended with $?\"'");
    let terminal = Terminal::new();
    let mut command = command_with_terminal(qkey, &line);
    // Where the shell finds the terminal that it lends to its jobs.
    command.stderr(terminal.stream());
    terminal.start(command)
}

#[test]
fn ctrl_backslash_and_ctrl_z_do_not_end_a_prompt() {
    let qkey = with_locked_key();
    let mut text = String::new();
    for (key, typed) in [("Ctrl-\\", "\u{1c}"), ("Ctrl-Z", "\u{1a}")] {
        let line = "qkey pubkey locked.pem --format base64";
        let mut session = start_as_job(&qkey, line);
        session.wait_for(PROMPT);
        session.type_in(typed);
        // Ctrl-U takes it away again.
        session.type_in("\u{15}open sesame\n");
        text += &format!("{key}\n{}\n", transcript(&qkey, &session.end()));
    }
    assert_data_eq!(text, str![[r#"
Ctrl-\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
ended with 0
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

Ctrl-Z
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
ended with 0
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 


"#]].raw());
}

#[test]
fn foreign_text_does_not_control_the_terminal() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    mock.fault(
        "fs_security_list_keys",
        "status 400 odd_error one\u{1b}]0;x\u{7}two\u{1b}[2J",
    );
    let said_by_the_cluster = start_interactively(&qkey, &["keys", "-vv"]).end().screen;
    let hook = r#"printf 'one\033]0;x\007two\033[2J\nerror: forged\n' >&2; exit 3"#;
    let qkey = qkey.between(&mock, hook);
    let said_by_qq = start_interactively(&qkey, &["keys", "-vv"]).end().screen;
    for screen in [said_by_the_cluster, said_by_qq] {
        assert!(screen.contains("one"), "{screen:?}");
        assert!(screen.contains("\u{1b}["), "qkey's own colors: {screen:?}");
        for sequence in ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\nerror: forged"] {
            assert!(!screen.contains(sequence), "{sequence:?} in {screen:?}");
        }
    }
}
