//! Help, and what is said to a command line that makes no sense.

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

/// The help of a command in a wide terminal, up to the global options and from there.
fn help(command: &str, flag: &str) -> (String, String) {
    let qkey = Qkey::new().env("COLUMNS", "100");
    let run = shell::run(&qkey, &format!("qkey {command} {flag}"));
    assert_eq!((run.code, &*run.stderr), (0, ""), "{command}");
    let lines: Vec<&str> = run.stdout.lines().map(str::trim_end).collect();
    let text = lines.join("\n") + "\n";
    let (own, global) = text
        .split_once("Global options:\n")
        .expect("global options");
    let (global, rest) = global.split_once("\nExit codes").unwrap_or((global, ""));
    let rest = if rest.is_empty() {
        String::new()
    } else {
        format!("Exit codes{rest}")
    };
    (format!("{own}{rest}"), global.to_owned())
}

#[test]
fn help_tells_of_every_command() {
    let mut text = String::new();
    for command in COMMANDS {
        text += &format!(
            "$ qkey {command} --help\n{}\n",
            help(command, "--help").0.trim_end()
        );
        text.push('\n');
    }
    assert_data_eq!(
        text,
        str![[r#"
$ qkey  --help
Prove to a Qumulo cluster that you hold the private half of a lock key, wherever it lives

Usage: qkey [OPTIONS] <COMMAND>

Commands:
  add       Store the public half of a key in the cluster's key store
  replace   Replace a stored key: the old and the new private key sign one challenge
  unlock    Unlock snapshots with the private key that locks them
  lock      Lock a snapshot with a stored key
  keys      Show what the cluster's key store holds
  generate  Make a new private key, never over an existing one
  pubkey    Print the public half of a key
  sign      Sign a challenge, without a cluster
  verify    Check a signature over a challenge, without a cluster
  config    Show the configuration in force, or begin a configuration file
  help      Print this message or the help of the given subcommand(s)

Options:
  -h, --help
          Print help (see a summary with '-h')

  -V, --version
          Print version

Exit codes: 0 done, or already so; 1 internal; 2 usage; 3 key; 4 mismatch; 5 refused; 6 auth;
7 unreachable; 8 unknown outcome; 9 partial; 130 interrupted; 143 terminated.

$ qkey add --help
Store the public half of a key in the cluster's key store

Usage: qkey add [OPTIONS] --name <NAME> --key <SOURCE>

Options:
      --name <NAME>
          The name to store it under; also the challenge that the key signs

      --key <SOURCE>
          The private key: a path, a URI, or a name of the configuration file

      --comment <COMMENT>
          A comment to store along

      --dry-run
          Do everything up to the submission, and not that

  -h, --help
          Print help (see a summary with '-h')

$ qkey replace --help
Replace a stored key: the old and the new private key sign one challenge

Usage: qkey replace [OPTIONS] --key-id <ID-OR-NAME> --new-key <SOURCE>

Options:
  -k, --key-id <ID-OR-NAME>
          The stored key, by id or name

          [alias: --key-ref]

      --old-key <SOURCE>
          The private key that the cluster holds [default: the one in the configuration file that
          matches]

      --new-key <SOURCE>
          The private key to put in its place

      --attempts <N>
          How often to submit at the most, if the challenge goes stale meanwhile

          [default: 2]

      --dry-run
          Do everything up to the submission, and not that

  -h, --help
          Print help (see a summary with '-h')

$ qkey unlock --help
Unlock snapshots with the private key that locks them

Usage: qkey unlock [OPTIONS] <--id <N>|--ids-from <FILE>>

Options:
      --id <N>
          A snapshot's id; may be given several times

      --ids-from <FILE>
          A file with ids, one a line; `-` is stdin

      --key <SOURCE>
          The private key that locks them; may be given several times [default: the one in the
          configuration file that matches]

      --jobs <N>
          How many snapshots to work on at a time [default: the number of processors]

      --attempts <N>
          How often to submit at the most, if the challenge goes stale meanwhile

          [default: 2]

      --dry-run
          Do everything up to the submission, and not that

  -h, --help
          Print help (see a summary with '-h')

$ qkey lock --help
Lock a snapshot with a stored key

Usage: qkey lock [OPTIONS] --id <N> --lock-key <ID-OR-NAME>

Options:
      --id <N>
          The snapshot's id

      --lock-key <ID-OR-NAME>
          The stored key, by id or name

          [aliases: --key-id, --key-ref]

      --dry-run
          Do everything up to the submission, and not that

  -h, --help
          Print help (see a summary with '-h')

$ qkey keys --help
Show what the cluster's key store holds

Usage: qkey keys [OPTIONS] [COMMAND]

Commands:
  list   Every stored key, and the configured key that matches it
  show   One stored key
  usage  What a stored key protects; without a key, what each of them does
  help   Print this message or the help of the given subcommand(s)

Options:
  -h, --help
          Print help (see a summary with '-h')

$ qkey keys list --help
Every stored key, and the configured key that matches it

Usage: qkey keys list [OPTIONS]

Options:
  -h, --help
          Print help (see a summary with '-h')

$ qkey keys show --help
One stored key

Usage: qkey keys show [OPTIONS] [ID-OR-NAME]

Arguments:
  [ID-OR-NAME]
          The stored key, by id or name

Options:
  -k, --key-id <ID-OR-NAME>
          The same as a flag

          [alias: --key-ref]

  -h, --help
          Print help (see a summary with '-h')

$ qkey keys usage --help
What a stored key protects; without a key, what each of them does

Usage: qkey keys usage [OPTIONS] [ID-OR-NAME]

Arguments:
  [ID-OR-NAME]
          The stored key, by id or name

Options:
  -k, --key-id <ID-OR-NAME>
          The same as a flag

          [alias: --key-ref]

  -h, --help
          Print help (see a summary with '-h')

$ qkey generate --help
Make a new private key, never over an existing one

Usage: qkey generate [OPTIONS] <SOURCE>

Arguments:
  <SOURCE>
          Where to make it: a path, a URI, or a name of the configuration file. With a passphrase
          attribute (PATH?passphrase-file=P), the key file is encrypted

Options:
      --format <FORMAT>
          Encoding of a new key file [default: pkcs8]

          Possible values:
          - pkcs8:   PKCS#8 PEM
          - sec1:    The traditional PEM of `openssl ec`
          - openssh: What `ssh-keygen` writes

      --encrypt
          Ask for a passphrase on the terminal and encrypt the key file with it

  -h, --help
          Print help (see a summary with '-h')

$ qkey pubkey --help
Print the public half of a key

Usage: qkey pubkey [OPTIONS] <SOURCE>

Arguments:
  <SOURCE>
          The private key: a path, a URI, or a name of the configuration file

Options:
      --format <FORMAT>
          The form to print

          Possible values:
          - pem:     A PUBLIC KEY block
          - der:     The DER SubjectPublicKeyInfo, binary
          - base64:  One line of Base64, as `qq --public-key` takes it
          - openssh: One line, as in authorized_keys

          [default: pem]

  -h, --help
          Print help (see a summary with '-h')

$ qkey sign --help
Sign a challenge, without a cluster

Usage: qkey sign [OPTIONS] --key <SOURCE> [CHALLENGE]

Arguments:
  [CHALLENGE]
          The challenge itself; without it, or with `-`, stdin is read to its end

Options:
      --key <SOURCE>
          The private key: a path, a URI, or a name of the configuration file

      --challenge-file <PATH>
          A file with the challenge, exact to the byte

          [alias: --file]

      --format <FORMAT>
          The form to print

          Possible values:
          - base64: One line of Base64 of the DER, as `qq --signature` takes it
          - der:    ASN.1 DER, binary
          - hex:    The DER in hexadecimal
          - p1363:  r and s, 32 bytes each, binary

          [default: base64]
          [alias: --encoding]

  -h, --help
          Print help (see a summary with '-h')

$ qkey verify --help
Check a signature over a challenge, without a cluster

Usage: qkey verify [OPTIONS] --signature <SIGNATURE> [CHALLENGE]

Arguments:
  [CHALLENGE]
          The challenge itself; without it, or with `-`, stdin is read to its end

Options:
      --public-key <PUBLIC-KEY>
          The public key, in any form: a file, `-` for stdin, or the one-line Base64 itself

      --key <SOURCE>
          A private key whose public half to use: a path, a URI, or a name of the configuration file

      --signature <SIGNATURE>
          The signature, in any form: a file, `-` for stdin, or the Base64 or hexadecimal itself

      --challenge-file <PATH>
          A file with the challenge, exact to the byte

          [alias: --file]

  -h, --help
          Print help (see a summary with '-h')

$ qkey config --help
Show the configuration in force, or begin a configuration file

Usage: qkey config [OPTIONS] <COMMAND>

Commands:
  show  What is in force, and where each value comes from
  init  Write a commented configuration file, never over an existing one
  help  Print this message or the help of the given subcommand(s)

Options:
  -h, --help
          Print help (see a summary with '-h')

$ qkey config show --help
What is in force, and where each value comes from

Usage: qkey config show [OPTIONS]

Options:
  -h, --help
          Print help (see a summary with '-h')

$ qkey config init --help
Write a commented configuration file, never over an existing one

Usage: qkey config init [OPTIONS]

Options:
      --file <PATH>
          Where to write it, instead of the usual place; `-` is stdout

  -h, --help
          Print help (see a summary with '-h')


"#]]
        .raw()
    );
}

#[test]
fn short_help_fits_a_screen() {
    let qkey = Qkey::new().env("COLUMNS", "100");
    assert_data_eq!(
        prints(&qkey, "qkey -h"),
        str![[r#"
Prove to a Qumulo cluster that you hold the private half of a lock key, wherever it lives

Usage: qkey [OPTIONS] <COMMAND>

Commands:
  add       Store the public half of a key in the cluster's key store
  replace   Replace a stored key: the old and the new private key sign one challenge
  unlock    Unlock snapshots with the private key that locks them
  lock      Lock a snapshot with a stored key
  keys      Show what the cluster's key store holds
  generate  Make a new private key, never over an existing one
  pubkey    Print the public half of a key
  sign      Sign a challenge, without a cluster
  verify    Check a signature over a challenge, without a cluster
  config    Show the configuration in force, or begin a configuration file
  help      Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help (see more with '--help')
  -V, --version  Print version

Global options:
      --cluster <NAME>                The cluster's name in the configuration file [env:
                                      QKEY_CLUSTER=]
      --host <HOST>                   The cluster's host name or address [default: what qq takes, a
                                      cluster node] [env: QKEY_HOST=]
      --port <PORT>                   The port of the cluster's REST API [default: 8000] [env:
                                      QKEY_PORT=]
      --credentials-store <PATH>      The file with the cluster's credentials, as `qq
                                      --credentials-store` [env: QKEY_CREDENTIALS_STORE=]
      --ca-file <PEM>                 Trust only the certificates in this PEM file: CAs, or the
                                      cluster's own (--via rest) [env: QKEY_CA_FILE=]
      --tls-fingerprint <sha256:HEX>  Trust only the certificate with this fingerprint (--via rest)
                                      [env: QKEY_TLS_FINGERPRINT=]
      --insecure                      Trust any certificate: whoever stands between can take the
                                      token (--via rest) [env: QKEY_INSECURE=]
      --qq <PATH>                     The qq program [default: qq, from PATH] [env: QKEY_QQ=]
      --via <VIA>                     How to reach the cluster [default: qq] [env: QKEY_VIA=]
                                      [possible values: qq, rest]
      --timeout <SECONDS>             How long each call to the cluster or a signer may take
                                      [default: 30] [env: QKEY_TIMEOUT=]
      --config <FILE>                 The configuration file [default:
                                      $XDG_CONFIG_HOME/qkey/config.toml] [env: QKEY_CONFIG=]
      --output <FORMAT>               The form of results, errors and notes [default: text] [env:
                                      QKEY_OUTPUT=] [possible values: text, json]
      --no-input                      Never ask on the terminal [env: QKEY_NO_INPUT=]
  -v, --verbose...                    Say what is being done; twice: show the programs that are run
                                      [env: QKEY_VERBOSE=]
  -q, --quiet                         No warnings [env: QKEY_QUIET=]
      --color <WHEN>                  Whether to use color [default: auto] [env: QKEY_COLOR=]
                                      [possible values: auto, always, never]

Exit codes: 0 done, or already so; 1 internal; 2 usage; 3 key; 4 mismatch; 5 refused; 6 auth;
7 unreachable; 8 unknown outcome; 9 partial; 130 interrupted; 143 terminated.

"#]]
        .raw()
    );
}

#[test]
fn the_global_options_are_the_same_everywhere() {
    let (_, global) = help("", "--help");
    for command in COMMANDS {
        assert_eq!(help(command, "--help").1, global, "{command}");
    }
    assert_data_eq!(
        global,
        str![[r#"
      --cluster <NAME>
          The cluster's name in the configuration file

          [env: QKEY_CLUSTER=]

      --host <HOST>
          The cluster's host name or address [default: what qq takes, a cluster node]

          [env: QKEY_HOST=]

      --port <PORT>
          The port of the cluster's REST API [default: 8000]

          [env: QKEY_PORT=]

      --credentials-store <PATH>
          The file with the cluster's credentials, as `qq --credentials-store`

          [env: QKEY_CREDENTIALS_STORE=]

      --ca-file <PEM>
          Trust only the certificates in this PEM file: CAs, or the cluster's own (--via rest)

          [env: QKEY_CA_FILE=]

      --tls-fingerprint <sha256:HEX>
          Trust only the certificate with this fingerprint (--via rest)

          [env: QKEY_TLS_FINGERPRINT=]

      --insecure
          Trust any certificate: whoever stands between can take the token (--via rest)

          [env: QKEY_INSECURE=]

      --qq <PATH>
          The qq program [default: qq, from PATH]

          [env: QKEY_QQ=]

      --via <VIA>
          How to reach the cluster [default: qq]

          Possible values:
          - qq:   Run the `qq` program
          - rest: Speak to its REST API over HTTPS

          [env: QKEY_VIA=]

      --timeout <SECONDS>
          How long each call to the cluster or a signer may take [default: 30]

          [env: QKEY_TIMEOUT=]

      --config <FILE>
          The configuration file [default: $XDG_CONFIG_HOME/qkey/config.toml]

          [env: QKEY_CONFIG=]

      --output <FORMAT>
          The form of results, errors and notes [default: text]

          Possible values:
          - text
          - json: One object a line

          [env: QKEY_OUTPUT=]

      --no-input
          Never ask on the terminal

          [env: QKEY_NO_INPUT=]

  -v, --verbose...
          Say what is being done; twice: show the programs that are run

          [env: QKEY_VERBOSE=]

  -q, --quiet
          No warnings

          [env: QKEY_QUIET=]

      --color <WHEN>
          Whether to use color [default: auto]

          Possible values:
          - auto:   On a terminal, unless NO_COLOR is set
          - always
          - never

          [env: QKEY_COLOR=]

"#]]
        .raw()
    );
}

#[test]
fn global_options_stand_before_or_after_the_command() {
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
fn the_version_is_the_packages() {
    let expected = format!("qkey {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        assert_eq!(prints(&Qkey::new(), &format!("qkey {flag}")), expected);
    }
}

#[test]
fn without_a_command_help_is_shown_as_an_error() {
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
fn a_misspelt_command_or_flag_is_named_with_the_nearest() {
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
exit 2
--- stdout
--- stderr
error: unrecognized subcommand 'ad'

  tip: a similar subcommand exists: 'add'

Usage: qkey [OPTIONS] <COMMAND>

For more information, try '--help'.

$ qkey unlok --id 1
exit 2
--- stdout
--- stderr
error: unrecognized subcommand 'unlok'

  tip: a similar subcommand exists: 'unlock'

Usage: qkey [OPTIONS] <COMMAND>

For more information, try '--help'.

$ qkey nonsense
exit 2
--- stdout
--- stderr
error: unrecognized subcommand 'nonsense'

Usage: qkey [OPTIONS] <COMMAND>

For more information, try '--help'.

$ qkey help
exit 0
--- stdout
Prove to a Qumulo cluster that you hold the private half of a lock key, wherever it lives

Usage: qkey [OPTIONS] <COMMAND>

Commands:
  add       Store the public half of a key in the cluster's key store
  replace   Replace a stored key: the old and the new private key sign one challenge
  unlock    Unlock snapshots with the private key that locks them
  lock      Lock a snapshot with a stored key
  keys      Show what the cluster's key store holds
  generate  Make a new private key, never over an existing one
  pubkey    Print the public half of a key
  sign      Sign a challenge, without a cluster
  verify    Check a signature over a challenge, without a cluster
  config    Show the configuration in force, or begin a configuration file
  help      Print this message or the help of the given subcommand(s)

Options:
  -h, --help
          Print help (see a summary with '-h')

  -V, --version
          Print version

Global options:
      --cluster <NAME>
          The cluster's name in the configuration file
          
          [env: QKEY_CLUSTER=]

      --host <HOST>
          The cluster's host name or address [default: what qq takes, a cluster node]
          
          [env: QKEY_HOST=cluster]

      --port <PORT>
          The port of the cluster's REST API [default: 8000]
          
          [env: QKEY_PORT=]

      --credentials-store <PATH>
          The file with the cluster's credentials, as `qq --credentials-store`
          
          [env: QKEY_CREDENTIALS_STORE=]

      --ca-file <PEM>
          Trust only the certificates in this PEM file: CAs, or the cluster's own (--via rest)
          
          [env: QKEY_CA_FILE=]

      --tls-fingerprint <sha256:HEX>
          Trust only the certificate with this fingerprint (--via rest)
          
          [env: QKEY_TLS_FINGERPRINT=]

      --insecure
          Trust any certificate: whoever stands between can take the token (--via rest)
          
          [env: QKEY_INSECURE=]

      --qq <PATH>
          The qq program [default: qq, from PATH]
          
          [env: QKEY_QQ=[QQ]]

      --via <VIA>
          How to reach the cluster [default: qq]

          Possible values:
          - qq:   Run the `qq` program
          - rest: Speak to its REST API over HTTPS
          
          [env: QKEY_VIA=]

      --timeout <SECONDS>
          How long each call to the cluster or a signer may take [default: 30]
          
          [env: QKEY_TIMEOUT=]

      --config <FILE>
          The configuration file [default: $XDG_CONFIG_HOME/qkey/config.toml]
          
          [env: QKEY_CONFIG=]

      --output <FORMAT>
          The form of results, errors and notes [default: text]

          Possible values:
          - text
          - json: One object a line
          
          [env: QKEY_OUTPUT=]

      --no-input
          Never ask on the terminal
          
          [env: QKEY_NO_INPUT=]

  -v, --verbose...
          Say what is being done; twice: show the programs that are run
          
          [env: QKEY_VERBOSE=]

  -q, --quiet
          No warnings
          
          [env: QKEY_QUIET=]

      --color <WHEN>
          Whether to use color [default: auto]

          Possible values:
          - auto:   On a terminal, unless NO_COLOR is set
          - always
          - never
          
          [env: QKEY_COLOR=]

Exit codes: 0 done, or already so; 1 internal; 2 usage; 3 key; 4 mismatch; 5 refused; 6 auth;
7 unreachable; 8 unknown outcome; 9 partial; 130 interrupted; 143 terminated.
--- stderr

$ qkey keys lst
exit 2
--- stdout
--- stderr
error: unrecognized subcommand 'lst'

  tip: a similar subcommand exists: 'list'

Usage: qkey keys [OPTIONS] [COMMAND]

For more information, try '--help'.

$ qkey config
exit 2
--- stdout
--- stderr
error: 'qkey config' requires a subcommand but one was not provided
  [subcommands: show, init, help]

Usage: qkey config [OPTIONS] <COMMAND>

For more information, try '--help'.

$ qkey add --nmae x --key alice.pem
exit 2
--- stdout
--- stderr
error: unexpected argument '--nmae' found

  tip: a similar argument exists: '--name'

Usage: qkey add --name <NAME> --key <SOURCE>

For more information, try '--help'.

$ qkey add --name x
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE> --host <HOST> --qq <PATH>

For more information, try '--help'.

$ qkey unlock --id one
exit 2
--- stdout
--- stderr
error: invalid value 'one' for '--id <N>': invalid digit found in string

For more information, try '--help'.

$ qkey unlock --id -1
exit 2
--- stdout
--- stderr
error: unexpected argument '-1' found

Usage: qkey unlock [OPTIONS] <--id <N>|--ids-from <FILE>>

For more information, try '--help'.

$ qkey unlock
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  <--id <N>|--ids-from <FILE>>

Usage: qkey unlock --host <HOST> --qq <PATH> <--id <N>|--ids-from <FILE>>

For more information, try '--help'.

$ qkey replace -k 1 --new-key alice.pem --attempts 0
exit 2
--- stdout
--- stderr
error: invalid value '0' for '--attempts <N>': 0 is not in 1..=4294967295

For more information, try '--help'.

$ qkey generate new.pem --format jwk
exit 2
--- stdout
--- stderr
error: invalid value 'jwk' for '--format <FORMAT>'
  [possible values: pkcs8, sec1, openssh]

For more information, try '--help'.

$ qkey pubkey alice.pem bob.pem
exit 2
--- stdout
--- stderr
error: unexpected argument 'bob.pem' found

Usage: qkey pubkey [OPTIONS] <SOURCE>

For more information, try '--help'.

$ qkey --hots x keys
exit 2
--- stdout
--- stderr
error: unexpected argument '--hots' found

  tip: a similar argument exists: '--host'

Usage: qkey --host <HOST> <COMMAND>

For more information, try '--help'.

$ qkey keys show
exit 2
--- stdout
--- stderr
error: no stored key is named
hint: give its id or name; `qkey keys list` shows them

$ qkey keys show 1 --key-id 1
exit 2
--- stdout
--- stderr
error: the argument '[ID-OR-NAME]' cannot be used with '--key-id <ID-OR-NAME>'

Usage: qkey keys show --host <HOST> --qq <PATH> <ID-OR-NAME>

For more information, try '--help'.


"#]]
        .raw()
    );
}

#[test]
fn a_usage_error_is_an_object_where_json_is_wanted() {
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
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"unrecognized subcommand 'ad'","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ qkey --output=json add --nmae x
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"unexpected argument '--nmae' found","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ QKEY_OUTPUT=json qkey add --name x
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"the following required arguments were not provided: --key <SOURCE>","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ QKEY_OUTPUT=json qkey add --name x --output text
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE> --output <FORMAT> --host <HOST> --qq <PATH>

For more information, try '--help'.

$ QKEY_OUTPUT=json qkey add --name x --output=text
exit 2
--- stdout
--- stderr
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE> --output <FORMAT> --host <HOST> --qq <PATH>

For more information, try '--help'.

$ QKEY_OUTPUT=text qkey add --name x --output json
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"the following required arguments were not provided: --key <SOURCE>","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ qkey sign --key alice.pem x --format raw --output json
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"invalid value 'raw' for '--format <FORMAT>' [possible values: base64, der, hex, p1363]","causes":[],"hint":"`qkey --help` shows what there is","exit_code":2}}

$ qkey keys show --output json
exit 2
--- stdout
--- stderr
{"error":{"kind":"usage","message":"no stored key is named","causes":[],"hint":"give its id or name; `qkey keys list` shows them","exit_code":2}}

$ qkey --output json --version
exit 0
--- stdout
qkey 0.1.0
--- stderr


"#]].raw()
    );
}

#[test]
fn a_usage_error_in_json_is_one_line_and_parses() {
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
fn verbosity_is_counted_and_quiet_wins() {
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
exit 0
--- stdout
--- stderr
warning: the challenge ends with a newline, which is signed along; the cluster's challenges have none

$ echo | qkey sign --key 'alice.pem' -q > /dev/null
exit 0
--- stdout
--- stderr

$ echo | qkey sign --key 'alice.pem' -vvvq > /dev/null
exit 0
--- stdout
--- stderr

$ echo | QKEY_QUIET=1 qkey sign --key alice.pem > /dev/null
exit 0
--- stdout
--- stderr

$ echo | QKEY_QUIET=0 qkey sign --key alice.pem > /dev/null
exit 0
--- stdout
--- stderr
warning: the challenge ends with a newline, which is signed along; the cluster's challenges have none

$ QKEY_VERBOSE=many qkey pubkey alice.pem --format base64
exit 2
--- stdout
--- stderr
error: invalid value 'many' for '--verbose...': invalid digit found in string

For more information, try '--help'.

$ QKEY_VERBOSE= qkey pubkey alice.pem --format base64
exit 2
--- stdout
--- stderr
error: invalid value '' for '--verbose...': cannot parse integer from empty string

For more information, try '--help'.

$ QKEY_NO_INPUT= qkey pubkey alice.pem --format base64
exit 0
--- stdout
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
--- stderr


"#]].raw()
    );
}

#[test]
fn verbose_shows_the_steps_and_twice_verbose_the_programs_that_are_run() {
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
fn a_reader_that_goes_away_is_no_error() {
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
fn stdout_that_takes_nothing_is_an_error() {
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
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey pubkey alice.pem --format der > /dev/full
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey sign --key alice.pem x --output json > /dev/full
exit 1
--- stdout
--- stderr
{"error":{"kind":"internal","message":"the result cannot be written to stdout","causes":["No space left on device (os error 28)"],"hint":"nothing was changed; send the output elsewhere and run this again","exit_code":1}}

$ qkey config show > /dev/full
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey config init --file - > /dev/full
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey pubkey alice.pem >&-
exit 0
--- stdout
--- stderr


"#]].raw()
    );
}

#[test]
fn stdout_that_takes_nothing_does_not_hide_what_was_done() {
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
exit 1
--- stdout
--- stderr
error: Stored key 2 ("new") in the key store, SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey add --name new --key bob.pem > /dev/full
exit 1
--- stdout
--- stderr
error: The key store holds this as key 2 ("new") already: nothing to do, SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey unlock --id 1 --key alice.pem --dry-run > /dev/full
exit 1
--- stdout
--- stderr
error: Would unlock snapshot 1 ("1_before_upgrade"), which key 1 ("lock") locks; the signature was checked and nothing was sent, challenge: "Unlock snapshot 1 locked with key 1, expiration \"\"", but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey unlock --id 1 --key alice.pem > /dev/full
exit 1
--- stdout
--- stderr
error: Unlocked snapshot 1 ("1_before_upgrade"), which key 1 ("lock") locked, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey unlock --id 2 --id 3 --jobs 1 --key alice.pem > /dev/full
exit 1
--- stdout
--- stderr
error: Unlocked 2, already unlocked 0, failed 0, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey unlock --id 4 --id 99 --jobs 1 --key alice.pem > /dev/full
exit 9
--- stdout
--- stderr
error: cluster:8000 refused snapshot_get_status: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what there is
error: Unlocked 1, already unlocked 0, failed 1, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone

$ qkey lock --id 1 --lock-key lock --output json > /dev/full
exit 1
--- stdout
--- stderr
{"error":{"kind":"internal","message":"Locked snapshot 1 (\"1_before_upgrade\") with key 1 (\"lock\"), but the result cannot be written to stdout","causes":["No space left on device (os error 28)"],"hint":"rerunning is safe: it reports what is already done","exit_code":1}}

$ qkey replace -k lock --old-key alice.pem --new-key carol.pem > /dev/full
exit 1
--- stdout
--- stderr
error: Replaced key 1 ("lock"), was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4, now SHA256:JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done

$ qkey config init > /dev/full
exit 1
--- stdout
--- stderr
error: Wrote [DIR]/.config/qkey/config.toml: a commented file that sets nothing yet, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: the file is complete; nothing more is to be done

$ qkey keys > /dev/full
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey --version > /dev/full
exit 1
--- stdout
--- stderr
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; send the output elsewhere and run this again

$ qkey --help --output json > /dev/full
exit 1
--- stdout
--- stderr
{"error":{"kind":"internal","message":"the result cannot be written to stdout","causes":["No space left on device (os error 28)"],"hint":"nothing was changed; send the output elsewhere and run this again","exit_code":1}}


"#]].raw()
    );
}

#[test]
fn stderr_that_takes_nothing_changes_nothing() {
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
fn arguments_that_are_no_text_are_taken_or_refused_without_a_panic() {
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
fn a_closed_stdin_is_an_empty_one_or_an_error() {
    let qkey = Qkey::new();
    let mut command = qkey.command(["sign", "--key", "alice.pem"]);
    let run = qkey.taken(&command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(run.stdout, prints(&qkey, "qkey sign --key alice.pem ''"));
    let closed = shell::run(&qkey, "qkey sign --key alice.pem <&-");
    assert!(!closed.stderr.contains("panicked"), "{}", closed.stderr);
}
