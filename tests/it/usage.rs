//! Help, and usage errors.

use std::process::Stdio;

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, Qkey},
    shell::{self, prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

const COMMANDS: [&str; 16] = [
    "",
    "add",
    "replace",
    "unlock",
    "lock",
    "keys",
    "keys list",
    "keys show",
    "keys usage",
    "generate",
    "pubkey",
    "sign",
    "verify",
    "config",
    "config show",
    "config init",
];

/// The help of a command in a wide terminal.
fn help(command: &str, flag: &str) -> String {
    let qkey = Qkey::new().env("COLUMNS", "100");
    let run = shell::run(&qkey, &format!("qkey {command} {flag}"));
    assert_eq!((run.code, &*run.stderr), (0, ""), "{command}");
    let lines: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[test]
fn help_shows_own_options_and_examples_first() {
    let mut text = String::new();
    for command in COMMANDS {
        let help = help(command, "--help");
        let end = ["Cluster options:", "Global options:"]
            .iter()
            .filter_map(|heading| help.find(heading))
            .min()
            .expect("global options");
        text += &format!("$ qkey {command} --help\n{}\n\n", help[..end].trim_end());
    }
    assert_data_eq!(text, str![[]].raw());
}

#[test]
fn overview_fits_in_25_lines() {
    let overview = help("", "-h");
    assert!(overview.lines().count() < 25, "{overview}");
    assert_data_eq!(overview, str![[]].raw());
}

#[test]
fn global_options_take_one_line_each_and_cluster_options_need_a_cluster() {
    let with_cluster = help("add", "-h");
    let (_, with_cluster) = with_cluster.split_once("Cluster options:").unwrap();
    let without_cluster = help("sign", "-h");
    let (_, without_cluster) = without_cluster.split_once("Global options:").unwrap();
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
            if command.is_empty() && flag == "-h" {
                continue;
            }
            let help = help(command, flag);
            match command {
                "generate" | "pubkey" | "sign" | "verify" | "config init" => {
                    assert!(!help.contains("Cluster options:"), "{command}");
                    assert!(help.contains(without_cluster), "{command}");
                }
                _ => assert!(help.contains(with_cluster), "{command}"),
            }
        }
    }
    assert_data_eq!(with_cluster, str![[]].raw());
    assert_data_eq!(without_cluster, str![[]].raw());
}

#[test]
fn help_topics_and_commands_are_printed() {
    assert_eq!(help("help", "keys usage"), help("keys usage", "--help"));
    assert_eq!(help("help", ""), help("", "--help"));
    let qkey = Qkey::new().env("COLUMNS", "100");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey help exit-codes",
                "qkey help environment",
                "qkey help key-sources",
                "qkey help sing",
            ]
        ),
        str![[]].raw()
    );
}

#[test]
fn global_options_are_accepted_before_and_after_command() {
    let qkey = Qkey::new();
    let expected = prints(&qkey, "qkey --output json config show --timeout 5");
    for line in [
        "qkey --timeout 5 --output json config show",
        "qkey config --timeout=5 show --output=json",
        "qkey config show --output json --timeout 5",
    ] {
        assert_eq!(prints(&qkey, line), expected, "{line}");
    }
}

#[test]
fn version_is_that_of_package() {
    let expected = format!("qkey {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        assert_eq!(prints(&Qkey::new(), &format!("qkey {flag}")), expected);
    }
}

#[test]
fn missing_command_prints_overview_and_exits_2() {
    let qkey = Qkey::new().env("COLUMNS", "100");
    let run = shell::run(&qkey, "qkey");
    assert_eq!((run.code, &*run.stdout), (2, ""));
    assert_eq!(run.stderr, prints(&qkey, "qkey -h"));
    assert_data_eq!(
        transcript(&qkey, ["qkey --output json", "qkey unlock --output json"]),
        str![[r#"
$ qkey --output json
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"'qkey' requires a subcommand but one was not provided [subcommands: add, replace, unlock, lock, keys, generate, pubkey, sign, verify, config, help]","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ qkey unlock --output json
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"the following required arguments were not provided: <--id <N>|--ids-from <FILE>>","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}


"#]].raw()
    );
}

#[test]
fn misspelled_command_or_flag_suggests_nearest() {
    // No test may find a qq of whoever runs it.
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey ad",
                "qkey unlok --id 1",
                "qkey nonsense",
                "qkey help",
                "qkey keys lst",
                "qkey config",
                "qkey add --nmae x --key alice.pem",
                "qkey add --name x",
                "qkey unlock --id one",
                "qkey unlock --id -1",
                "qkey unlock",
                "qkey replace -k 1 --new-key alice.pem --attempts 0",
                "qkey generate new.pem --format jwk",
                "qkey pubkey alice.pem bob.pem",
                "qkey --hots x keys",
                "qkey keys show",
                "qkey keys show 1 --key-id 1",
            ]
        ),
        str![[r#"
$ qkey ad
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlok --id 1
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey nonsense
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey help
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey keys lst
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey config
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey add --nmae x --key alice.pem
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey add --name x
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id one
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id -1
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey replace -k 1 --new-key alice.pem --attempts 0
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey generate new.pem --format jwk
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey pubkey alice.pem bob.pem
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey --hots x keys
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey keys show
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey keys show 1 --key-id 1
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.



"#]]
        .raw()
    );
}

#[test]
fn usage_error_is_json_object_with_output_json() {
    // No test may find a qq of whoever runs it.
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey ad --output json",
                "qkey --output=json add --nmae x",
                "QKEY_OUTPUT=json qkey add --name x",
                "QKEY_OUTPUT=json qkey add --name x --output text",
                "QKEY_OUTPUT=json qkey add --name x --output=text",
                "QKEY_OUTPUT=text qkey add --name x --output json",
                "qkey sign --key alice.pem x --format raw --output json",
                "qkey keys show --output json",
                "qkey --output json --version",
            ]
        ),
        str![[r#"
$ qkey ad --output json
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey --output=json add --nmae x
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_OUTPUT=json qkey add --name x
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_OUTPUT=json qkey add --name x --output text
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_OUTPUT=json qkey add --name x --output=text
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_OUTPUT=text qkey add --name x --output json
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey sign --key alice.pem x --format raw --output json
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey keys show --output json
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey --output json --version
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.



"#]].raw()
    );
}

#[test]
fn json_usage_error_is_one_line() {
    for line in [
        "ad",
        "add",
        "sign --format raw",
        "unlock --id x",
        "verify",
        "--nonsense",
        "config",
    ] {
        let run = shell::run(&Qkey::new(), &format!("qkey {line} --output json"));
        assert_eq!(run.code, 2);
        if line != "config" {
            let error: serde_json::Value = serde_json::from_str(&run.stderr).expect(&run.stderr);
            assert_eq!(error["error"]["kind"], "usage");
            assert_eq!(error["error"]["exit_code"], 2);
            assert_eq!(run.stderr.matches('\n').count(), 1, "{}", run.stderr);
        }
    }
}

#[test]
fn quiet_overrides_verbose() {
    assert_data_eq!(
        transcript(
            &Qkey::new(),
            [
                "echo | qkey sign --key 'alice.pem' -vv > /dev/null",
                "echo | qkey sign --key 'alice.pem' -q > /dev/null",
                "echo | qkey sign --key 'alice.pem' -vvvq > /dev/null",
                "echo | QKEY_QUIET=1 qkey sign --key alice.pem > /dev/null",
                "echo | QKEY_QUIET=0 qkey sign --key alice.pem > /dev/null",
                "QKEY_VERBOSE=many qkey pubkey alice.pem --format base64",
                "QKEY_VERBOSE= qkey pubkey alice.pem --format base64",
                "QKEY_NO_INPUT= qkey pubkey alice.pem --format base64",
            ]
        ),
        str![[r#"
$ echo | qkey sign --key 'alice.pem' -vv > /dev/null
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ echo | qkey sign --key 'alice.pem' -q > /dev/null
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ echo | qkey sign --key 'alice.pem' -vvvq > /dev/null
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ echo | QKEY_QUIET=1 qkey sign --key alice.pem > /dev/null
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ echo | QKEY_QUIET=0 qkey sign --key alice.pem > /dev/null
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_VERBOSE=many qkey pubkey alice.pem --format base64
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_VERBOSE= qkey pubkey alice.pem --format base64
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ QKEY_NO_INPUT= qkey pubkey alice.pem --format base64
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.



"#]].raw()
    );
}

#[test]
fn verbose_shows_steps_and_vv_shows_programs() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let qkey_verbose = |line: &str| shell::run(&qkey, line).stderr;
    for line in ["qkey keys -vv", "qkey -vv keys", "QKEY_VERBOSE=2 qkey keys"] {
        let stderr = qkey_verbose(line);
        assert!(
            stderr.contains("\nrunning [QQ] --host=cluster"),
            "{line}: {stderr}"
        );
    }
    for line in ["qkey keys -v", "QKEY_VERBOSE=1 qkey keys"] {
        assert_eq!(qkey_verbose(line), "qq fs_security_list_keys\n", "{line}");
    }
    for line in ["qkey keys", "QKEY_VERBOSE=2 qkey keys -q"] {
        assert_eq!(qkey_verbose(line), "", "{line}");
    }
}

#[test]
fn closed_pipe_is_not_an_error() {
    let qkey = Qkey::new();
    for line in [
        "--help",
        "--version",
        "pubkey alice.pem",
        "pubkey alice.pem --format der",
        "sign --key alice.pem x",
        "config show",
        "config init --file -",
        "config show --output json",
    ] {
        let mut command = qkey.command(line.split(' '));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let run = qkey.taken(&output);
        assert_eq!((run.code, &*run.stderr), (0, ""), "{line}");
    }
}

#[test]
fn full_stdout_is_an_error() {
    assert_data_eq!(
        transcript(
            &Qkey::new(),
            [
                "qkey pubkey alice.pem > /dev/full",
                "qkey pubkey alice.pem --format der > /dev/full",
                "qkey sign --key alice.pem x --output json > /dev/full",
                "qkey config show > /dev/full",
                "qkey config init --file - > /dev/full",
                "qkey pubkey alice.pem >&-",
            ]
        ),
        str![[r#"
$ qkey pubkey alice.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey pubkey alice.pem --format der > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey sign --key alice.pem x --output json > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey config show > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey config init --file - > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey pubkey alice.pem >&-
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.



"#]].raw()
    );
}

#[test]
fn full_stdout_still_reports_what_was_done() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    assert_data_eq!(
        transcript(
            &Qkey::with_mock(&mock),
            [
                "qkey add --name new --key bob.pem > /dev/full",
                "qkey add --name new --key bob.pem > /dev/full",
                "qkey unlock --id 1 --key alice.pem --dry-run > /dev/full",
                "qkey unlock --id 1 --key alice.pem > /dev/full",
                "qkey unlock --id 2 --id 3 --jobs 1 --key alice.pem > /dev/full",
                "qkey unlock --id 4 --id 99 --jobs 1 --key alice.pem > /dev/full",
                "qkey lock --id 1 --lock-key lock --output json > /dev/full",
                "qkey replace -k lock --old-key alice.pem --new-key carol.pem > /dev/full",
                "qkey config init > /dev/full",
                "qkey keys > /dev/full",
                "qkey --version > /dev/full",
                "qkey --help --output json > /dev/full",
            ]
        ),
        str![[r#"
$ qkey add --name new --key bob.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey add --name new --key bob.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id 1 --key alice.pem --dry-run > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id 1 --key alice.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id 2 --id 3 --jobs 1 --key alice.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey unlock --id 4 --id 99 --jobs 1 --key alice.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey lock --id 1 --lock-key lock --output json > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey replace -k lock --old-key alice.pem --new-key carol.pem > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey config init > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey keys > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey --version > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.


$ qkey --help --output json > /dev/full
exit 101
--- stdout
--- stderr
panicked at /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/clap_builder-4.6.7/src/builder/debug_asserts.rs:824:5:
Argument "no_input"
  Arg::is_takes_value_set is required when Arg::is_hide_possible_values_set is set.



"#]].raw()
    );
}

#[test]
fn full_stderr_does_not_change_result() {
    let qkey = Qkey::new();
    for redirection in ["2> /dev/full", "2>&-"] {
        let line = format!("qkey pubkey none.pem {redirection}");
        assert_eq!(shell::run(&qkey, &line).code, 3, "{line}");
        let line = format!("echo x | qkey sign --key alice.pem {redirection}");
        assert_eq!(shell::run(&qkey, &line).code, 0, "{line}");
        let line = format!("qkey nonsense {redirection}");
        assert_eq!(shell::run(&qkey, &line).code, 2, "{line}");
    }
}

#[test]
fn non_utf8_arguments_do_not_panic() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let qkey = Qkey::new();
    let odd = OsStr::from_bytes(b"caf\xe9");
    for (args, code) in [
        (vec![OsStr::new("pubkey"), odd], 2),
        (
            vec![
                OsStr::new("--config"),
                odd,
                OsStr::new("config"),
                OsStr::new("show"),
            ],
            2,
        ),
        (vec![odd], 2),
    ] {
        let run = qkey.run(&args);
        assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }
}

#[test]
fn closed_stdin_is_empty_or_an_error() {
    let qkey = Qkey::new();
    let mut command = qkey.command(["sign", "--key", "alice.pem"]);
    let run = qkey.taken(&command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(run.stdout, prints(&qkey, "qkey sign --key alice.pem ''"));
    let closed = shell::run(&qkey, "qkey sign --key alice.pem <&-");
    assert!(!closed.stderr.contains("panicked"), "{}", closed.stderr);
}
