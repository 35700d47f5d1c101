//! What only happens on a terminal: prompts, colors, and binary output that is held back.

use std::process::Stdio;

use crate::support::{
    mock::Mock,
    qkey::{Qkey, public_key_base64},
    shell::{command_with_terminal, prints},
    terminal::{Ended, Session, Terminal},
};
use snapbox::{IntoData, assert_data_eq, str};

/// Adds a key file under a passphrase.
fn lock(qkey: &Qkey, owner: &str, name: &str, passphrase: &str) {
    qkey.write("pass.tmp", passphrase);
    prints(
        qkey,
        &format!(
            "openssl pkcs8 -topk8 -v2 aes-256-cbc -in {owner}.pem -passout file:pass.tmp -out {name}
             chmod 600 {name}; rm pass.tmp"
        ),
    );
}

/// `locked.pem` is Alice's key under the passphrase `open sesame`.
fn with_locked_key() -> Qkey {
    let qkey = Qkey::new();
    lock(&qkey, "alice", "locked.pem", "open sesame");
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

#[test]
fn the_prompt_names_the_key_and_shows_nothing_of_what_is_typed() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem", "--format", "base64"]);
    session.answer(PROMPT, "open sesame");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

"#]].raw()
    );
}

#[test]
fn a_person_at_a_terminal_sees_prompt_and_result_and_no_passphrase() {
    let qkey = with_locked_key();
    let mut session = start_interactively(&qkey, &["sign", "--key", "locked.pem", "lock-2026"]);
    session.answer(PROMPT, "open sesame");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
MEUCIQDvRbRJfkXZQ0UqNn5jcqAMoNA2UFV+dEv9i8Vl8XFiZQIgT+4UqgLCDe5entD1bZd5YSo+b4UNZhJ/XVj+oxIHJdY=

"#]]
        .raw()
    );
}

#[test]
fn the_prompt_is_there_although_a_challenge_comes_from_a_pipe() {
    let qkey = with_locked_key();
    let terminal = Terminal::new();
    let mut command = qkey.command_with_terminal(["sign", "--key", "locked.pem"]);
    qkey.write("challenge", "lock-2026");
    command.stdin(std::fs::File::open(qkey.path("challenge")).unwrap());
    let mut session = terminal.start(command);
    session.answer(PROMPT, "open sesame");
    let run = qkey.taken(&session.end().output);
    assert_eq!(
        run.stdout,
        prints(&qkey, "qkey sign --key alice.pem lock-2026")
    );
}

#[test]
fn a_mistyped_passphrase_may_be_typed_again() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem", "--format", "base64"]);
    session.answer(PROMPT, "open barley");
    session.answer(PROMPT, "");
    session.answer(PROMPT, "open sesame");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- exit 0
warning: wrong passphrase for locked.pem (attempt 1 of 3)
warning: wrong passphrase for locked.pem (attempt 2 of 3)
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 
Enter the passphrase of locked.pem: 

"#]].raw()
    );
}

#[test]
fn the_third_wrong_passphrase_is_the_last() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem"]);
    for _ in 0..3 {
        session.answer(PROMPT, "open barley");
    }
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
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

"#]].raw()
    );
}

#[test]
fn ctrl_c_at_the_prompt_ends_it_and_restores_the_terminal() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem"]);
    session.wait_for(PROMPT);
    session.type_in("open\u{3}");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 130
error: interrupted while waiting for the passphrase of locked.pem
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

"#]]
        .raw()
    );
}

#[test]
fn sigterm_at_the_prompt_ends_it_and_restores_the_terminal() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem", "--output", "json"]);
    session.wait_for(PROMPT);
    let pid = rustix::process::Pid::from_raw(session.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 143
{"error":{"kind":"terminated","message":"interrupted while waiting for the passphrase of locked.pem","causes":[],"hint":null,"exit_code":143}}
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

"#]].raw()
    );
}

#[test]
fn ctrl_d_at_the_prompt_is_no_passphrase() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem"]);
    session.wait_for(PROMPT);
    session.type_in("\u{4}");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 3
error: no passphrase entered for locked.pem
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 

"#]].raw()
    );
}

#[test]
fn backspace_works_at_the_prompt() {
    let qkey = with_locked_key();
    let mut session = start(&qkey, &["pubkey", "locked.pem", "--format", "base64"]);
    // The erase character of a new terminal is DEL.
    session.answer(PROMPT, "open sesamy\u{7f}e");
    let run = qkey.taken(&session.end().output);
    assert_eq!((run.code, &*run.stderr), (0, ""));
}

#[test]
fn what_was_typed_before_the_prompt_is_no_answer_to_it() {
    let qkey = with_locked_key();
    let terminal = Terminal::new();
    terminal.type_ahead("open barley\n");
    let args = ["pubkey", "locked.pem", "--format", "base64"];
    let mut session = terminal.start(qkey.command_with_terminal(args));
    session.answer(PROMPT, "open sesame");
    let run = qkey.taken(&session.end().output);
    assert_eq!((run.code, &*run.stderr), (0, ""));
}

#[test]
fn what_comes_after_an_unanswered_prompt_begins_a_line() {
    let qkey = with_locked_key();
    let mut text = String::new();
    for (key, typed) in [("Ctrl-C", "\u{3}"), ("Ctrl-D", "\u{4}")] {
        let mut session = start_interactively(&qkey, &["--color=never", "pubkey", "locked.pem"]);
        session.wait_for(PROMPT);
        session.type_in(typed);
        text += &format!("{key}\n{}\n", transcript(&qkey, &session.end()));
    }
    assert_data_eq!(text, str![[r#"
Ctrl-C
--- exit 130
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
error: interrupted while waiting for the passphrase of locked.pem

Ctrl-D
--- exit 3
--- terminal (typing is shown)
Enter the passphrase of locked.pem: 
error: no passphrase entered for locked.pem
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source


"#]].raw());
}

#[test]
fn with_no_input_nobody_is_asked_at_a_terminal_either() {
    let qkey = with_locked_key();
    let session = start(&qkey, &["pubkey", "locked.pem", "--no-input"]);
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 3
error: locked.pem is encrypted, but --no-input forbids prompting
hint: for unattended use, append ?passphrase-file=PATH (or passphrase-env=VAR, passphrase-fd=N, passphrase-command=COMMAND) to the key source
--- terminal (typing is shown)

"#]].raw()
    );
}

#[test]
fn a_new_key_is_encrypted_with_what_was_typed_twice() {
    let qkey = Qkey::new();
    let mut session = start(&qkey, &["generate", "--encrypt", "new.pem"]);
    session.answer("Enter a new passphrase for new.pem: ", "open sesame");
    session.answer(
        "Enter the new passphrase for new.pem again: ",
        "open sesame",
    );
    let ended = session.end();
    assert_eq!(ended.output.status.code(), Some(0));
    assert_data_eq!(
        ended.screen,
        str![[r#"
Enter a new passphrase for new.pem: 
Enter the new passphrase for new.pem again: 

"#]]
        .raw()
    );
    prints(
        &qkey,
        "openssl pkey -in new.pem -passin pass:'open sesame' -noout",
    );
}

#[test]
fn no_key_is_made_when_the_two_differ() {
    let qkey = Qkey::new();
    let mut session = start(&qkey, &["generate", "--encrypt", "new.pem"]);
    session.answer("Enter a new passphrase for new.pem: ", "open sesame");
    session.answer(
        "Enter the new passphrase for new.pem again: ",
        "open barley",
    );
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 3
error: Passphrases do not match.
hint: run the command again
--- terminal (typing is shown)
Enter a new passphrase for new.pem: 
Enter the new passphrase for new.pem again: 

"#]]
        .raw()
    );
    assert!(!qkey.path("new.pem").exists());
}

#[test]
fn no_key_is_made_when_the_second_prompt_is_interrupted() {
    let qkey = Qkey::new();
    let mut session = start(&qkey, &["generate", "--encrypt", "new.pem"]);
    session.answer("Enter a new passphrase for new.pem: ", "open sesame");
    session.wait_for("again: ");
    session.type_in("\u{3}");
    let ended = session.end();
    assert_eq!(
        (ended.output.status.code(), ended.echoes),
        (Some(130), true)
    );
    assert!(!qkey.path("new.pem").exists());
}

#[test]
fn a_replacement_asks_for_the_old_key_and_then_for_the_new_one() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    lock(&qkey, "alice", "old.pem", "the old one");
    lock(&qkey, "bob", "new.pem", "the new one");
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    let args = [
        "replace",
        "-k",
        "lock",
        "--old-key",
        "old.pem",
        "--new-key",
        "new.pem",
    ];
    let mut session = start(&qkey, &args);
    session.answer("Enter the passphrase of old.pem: ", "the old one");
    session.answer("Enter the passphrase of new.pem: ", "the new one");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
Replaced key 1 ("lock").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s
--- terminal (typing is shown)
Enter the passphrase of old.pem: 
Enter the passphrase of new.pem: 

"#]]
        .raw()
    );
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
}

#[test]
fn an_interrupted_prompt_sends_nothing() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    lock(&qkey, "alice", "old.pem", "the old one");
    mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
    let args = [
        "replace",
        "-k",
        "lock",
        "--old-key",
        "old.pem",
        "--new-key",
        "bob.pem",
    ];
    let mut session = start(&qkey, &args);
    session.wait_for("Enter the passphrase of old.pem: ");
    session.type_in("\u{3}");
    assert_data_eq!(
        transcript(&qkey, &session.end()),
        str![[r#"
--- exit 130
error: interrupted while waiting for the passphrase of old.pem
--- terminal (typing is shown)
Enter the passphrase of old.pem: 

"#]]
        .raw()
    );
    assert_eq!(mock.count("fs_security_replace_key"), 0);
}

#[test]
fn nobody_is_asked_for_a_key_that_the_cluster_does_not_want() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    lock(&qkey, "bob", "locked.pem", "open sesame");
    let key = mock.add_key("lock", "", &public_key_base64(&qkey.path("alice.pem")));
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
fn binary_output_is_not_sent_to_a_terminal() {
    let qkey = Qkey::new();
    let mut text = String::new();
    for args in [
        &["pubkey", "alice.pem", "--format", "der"][..],
        &["sign", "--key", "alice.pem", "x", "--format", "der"],
        &["sign", "--key", "alice.pem", "x", "--format", "p1363"],
        &["sign", "--key", "alice.pem", "x", "--format", "hex"],
        &["pubkey", "alice.pem", "--format", "der", "--output", "json"],
    ] {
        let ended = start_interactively(&qkey, &[&["--color=never"], args].concat()).end();
        text += &format!("$ qkey {}\n{}\n", args.join(" "), transcript(&qkey, &ended));
    }
    assert_data_eq!(text, str![[r#"
$ qkey pubkey alice.pem --format der
--- exit 2
--- terminal (typing is shown)
error: refusing to write binary output to the terminal
hint: redirect it with `> FILE`, or choose another --format

$ qkey sign --key alice.pem x --format der
--- exit 2
--- terminal (typing is shown)
error: refusing to write binary output to the terminal
hint: redirect it with `> FILE`, or choose another --format

$ qkey sign --key alice.pem x --format p1363
--- exit 2
--- terminal (typing is shown)
error: refusing to write binary output to the terminal
hint: redirect it with `> FILE`, or choose another --format

$ qkey sign --key alice.pem x --format hex
--- terminal (typing is shown)
304402206a20d318204d225a6ebe18559eb629f596119787fb4624eaf3ea36107d95afa902202f3c39f37380ee5965c5c5059fc008369a49d74a08136df032d05244b65e75cc

$ qkey pubkey alice.pem --format der --output json
--- terminal (typing is shown)
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","pem":"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJ\nqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==\n-----END PUBLIC KEY-----\n","openssh":"ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBICpiURVrVkxB4QU4guayNa2wSZVyakzRh5eDvmEVJHtXa3szRInSFarv1DJzLPvNRy/FcCMsnngsB5CyxCtmmk="}


"#]].raw());
}

#[test]
fn an_error_is_colored_on_a_terminal_alone_and_only_when_colors_are_wanted() {
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
        for on_terminal in [true, false] {
            let terminal = Terminal::new();
            let mut command = qkey.command_with_terminal([&["pubkey", "none.pem"], args].concat());
            command.env("TERM", "xterm").envs(variables.iter().copied());
            if on_terminal {
                command.stderr(terminal.stream());
            }
            let ended = terminal.start(command).end();
            let shown = format!(
                "{}{}",
                ended.screen,
                String::from_utf8_lossy(&ended.output.stderr)
            );
            let color = if shown.contains('\u{1b}') {
                "colors"
            } else {
                "plain"
            };
            let place = if on_terminal { "terminal" } else { "pipe" };
            text += &format!("{variables:?} {args:?} on a {place}: {color}\n");
        }
    }
    assert_data_eq!(
        text,
        str![[r#"
[] [] on a terminal: colors
[] [] on a pipe: plain
[] ["--color=never"] on a terminal: plain
[] ["--color=never"] on a pipe: plain
[] ["--color=always"] on a terminal: colors
[] ["--color=always"] on a pipe: colors
[("NO_COLOR", "1")] [] on a terminal: plain
[("NO_COLOR", "1")] [] on a pipe: plain
[("NO_COLOR", "1")] ["--color=always"] on a terminal: colors
[("NO_COLOR", "1")] ["--color=always"] on a pipe: colors
[("QKEY_COLOR", "never")] [] on a terminal: plain
[("QKEY_COLOR", "never")] [] on a pipe: plain
[("TERM", "dumb")] [] on a terminal: plain
[("TERM", "dumb")] [] on a pipe: plain
[("CLICOLOR", "0")] [] on a terminal: plain
[("CLICOLOR", "0")] [] on a pipe: plain

"#]]
        .raw()
    );
}

#[test]
fn what_is_colored_are_the_words_in_front() {
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

#[test]
fn the_prompt_goes_to_the_terminal_when_stderr_is_closed() {
    let qkey = with_locked_key();
    let mut command = qkey.command_with_terminal(["pubkey", "locked.pem", "--format", "base64"]);
    command.stderr(Stdio::null());
    let mut session = Terminal::new().start(command);
    session.answer(PROMPT, "open sesame");
    assert_eq!(session.end().output.status.code(), Some(0));
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
fn neither_ctrl_backslash_nor_ctrl_z_leaves_a_terminal_that_hides_what_is_typed() {
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
fn the_words_of_others_do_not_steer_the_terminal() {
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
