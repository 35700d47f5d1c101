//! Help, and usage errors.

use std::process::Stdio;

use crate::support::{
    mock::Mock,
    qkey::{ALICE_PUBLIC, Qkey},
    session::assert_session,
    shell::{self, prints},
};
use snapbox::{IntoData, assert_data_eq, str};

const COMMANDS: [&str; 15] = [
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
    assert_data_eq!(
        text,
        str![[r#"
$ qkey add --help
Store the public half of a key in the cluster's key store

Usage: qkey add [OPTIONS] --name <NAME> --key <SOURCE>

Options:
      --name <NAME>        Name to store the key under; also the challenge that it signs
      --key <SOURCE>       Private key: path, URI or configured name
      --comment <COMMENT>  Comment to store with the key
      --dry-run            Do everything except submit
  -h, --help               Print help

Examples:
  qkey add --name lock-2026 --key lock-2026.pem
  qkey add --name lock-2026 --key awskms:///alias/lock-2026
  qkey add --name lock-2026 --key lock-2026 --dry-run

$ qkey replace --help
Replace a stored key; both the old and the new private key sign

Usage: qkey replace [OPTIONS] --key-id <ID-OR-NAME> --new-key <SOURCE>

Options:
  -k, --key-id <ID-OR-NAME>  Id or name of the stored key [alias: --key-ref]
      --old-key <SOURCE>     Current private key [default: the configured key that matches]
      --new-key <SOURCE>     New private key
      --attempts <N>         Maximum number of submissions if the challenge goes stale [default: 2]
      --dry-run              Do everything except submit
  -h, --help                 Print help

Examples:
  qkey replace --key-id lock --old-key lock-2026.pem --new-key lock-2027.pem
  qkey replace --key-id 1 --new-key lock-2027

$ qkey unlock --help
Unlock snapshots

Usage: qkey unlock [OPTIONS] <ID|--id <N>|--ids-from <FILE>>

Arguments:
  [ID]...  Snapshot ids: 7, 7,8 or 7-9

Options:
      --id <N>           Snapshot ids: 7, 7,8 or 7-9 (repeatable)
      --ids-from <FILE>  File with one snapshot id per line; `-` is stdin
      --key <SOURCE>     Private key (repeatable) [default: the configured key that matches]
      --jobs <N>         Snapshots to work on at a time [default: number of processors]
      --attempts <N>     Maximum number of submissions if the challenge goes stale [default: 2]
      --dry-run          Do everything except submit
  -h, --help             Print help

Examples:
  qkey unlock --id 7 --key lock-2026.pem
  qkey unlock --id 7 --id 8
  qkey unlock --ids-from ids.txt --output json

$ qkey lock --help
Lock a snapshot with a stored key

Usage: qkey lock [OPTIONS] --id <N> --lock-key <ID-OR-NAME>

Options:
      --id <N>                 Snapshot id
      --lock-key <ID-OR-NAME>  Id or name of the stored key [aliases: --key-id, --key-ref]
      --dry-run                Do everything except submit
  -h, --help                   Print help

Examples:
  qkey lock --id 7 --lock-key lock-2026
  qkey lock --id 7 --lock-key 1 --dry-run

$ qkey keys --help
Show the cluster's key store

Usage: qkey keys [OPTIONS]
       qkey keys <COMMAND>

Commands:
  list   List stored keys and the configured keys that match (default)
  show   Show one stored key
  usage  Show what a key protects (default: all keys)

Options:
      --wide  Show whole fingerprints
  -h, --help  Print help

Examples:
  qkey keys
  qkey keys show lock-2026
  qkey keys usage

$ qkey keys list --help
List stored keys and the configured keys that match (default)

Usage: qkey keys list [OPTIONS]

Options:
      --wide  Show whole fingerprints
  -h, --help  Print help

Examples:
  qkey keys list
  qkey keys list --output json

$ qkey keys show --help
Show one stored key

Usage: qkey keys show [OPTIONS] <ID-OR-NAME>

Arguments:
  [ID-OR-NAME]  Id, name or fingerprint of the stored key

Options:
  -k, --key-id <ID-OR-NAME>  Same as ID-OR-NAME [alias: --key-ref]
  -h, --help                 Print help

Examples:
  qkey keys show lock-2026
  qkey keys show 1

$ qkey keys usage --help
Show what a key protects (default: all keys)

Usage: qkey keys usage [OPTIONS] [ID-OR-NAME]

Arguments:
  [ID-OR-NAME]  Id, name or fingerprint of the stored key

Options:
  -k, --key-id <ID-OR-NAME>  Same as ID-OR-NAME [alias: --key-ref]
  -h, --help                 Print help

Examples:
  qkey keys usage lock-2026
  qkey keys usage

$ qkey generate --help
Generate a private key; never overwrites one

Usage: qkey generate [OPTIONS] <SOURCE>

Arguments:
  <SOURCE>
          Key source to create: path, URI or configured name; a passphrase attribute encrypts a key
          file

Options:
      --format <FORMAT>
          Encoding of a key file [default: pkcs8]

          Possible values:
          - pkcs8:   PKCS#8 PEM
          - sec1:    Traditional PEM, as `openssl ec` writes it
          - openssh: OpenSSH, as `ssh-keygen` writes it

      --encrypt
          Prompt for a passphrase and encrypt the key file

  -h, --help
          Print help (see a summary with '-h')

Examples:
  qkey generate lock-2026.pem --encrypt
  qkey generate lock-2026.pem?passphrase-file=lock-2026.pass
  qkey generate awskms:///alias/lock-2026

$ qkey pubkey --help
Print the public half of a key

Usage: qkey pubkey [OPTIONS] <SOURCE>

Arguments:
  <SOURCE>
          Private key: path, URI or configured name

Options:
      --format <FORMAT>
          Output format

          Possible values:
          - pem:         PEM, a PUBLIC KEY block
          - der:         DER SubjectPublicKeyInfo, binary
          - base64:      One line of Base64, for `qq --public-key`
          - openssh:     One line, for authorized_keys
          - fingerprint: SHA256:…, as `qkey keys` and `ssh-add -l` show it

          [default: pem]

  -h, --help
          Print help (see a summary with '-h')

Examples:
  qkey pubkey lock-2026.pem
  qkey pubkey lock-2026.pem --format base64

$ qkey sign --help
Sign a challenge without a cluster

Usage: qkey sign [OPTIONS] --key <SOURCE> [CHALLENGE]

Arguments:
  [CHALLENGE]
          Challenge text; `-` or nothing reads stdin

Options:
      --key <SOURCE>
          Private key: path, URI or configured name

      --challenge-file <PATH>
          File with the exact bytes of the challenge

          [alias: --file]

      --format <FORMAT>
          Output format

          Possible values:
          - base64: One line of Base64, for `qq --signature`
          - der:    ASN.1 DER, binary
          - hex:    DER in hexadecimal
          - p1363:  r and s, 32 bytes each, binary

          [default: base64]
          [alias: --encoding]

  -h, --help
          Print help (see a summary with '-h')

Examples:
  qkey sign --key lock-2026.pem CHALLENGE
  qkey sign --key lock-2026.pem --challenge-file challenge.txt --format der

$ qkey verify --help
Verify a signature over a challenge without a cluster

Usage: qkey verify [OPTIONS] --signature <SIGNATURE> [CHALLENGE]

Arguments:
  [CHALLENGE]  Challenge text; `-` or nothing reads stdin

Options:
      --public-key <PUBLIC-KEY>  Public key in any encoding: file, `-` for stdin, or one line of
                                 Base64
      --key <SOURCE>             Private key whose public half to use: path, URI or configured name
      --signature <SIGNATURE>    Signature in any encoding: file, `-` for stdin, Base64 or
                                 hexadecimal
      --challenge-file <PATH>    File with the exact bytes of the challenge [alias: --file]
  -h, --help                     Print help

Examples:
  qkey verify --public-key lock-2026.pub --signature signature.txt CHALLENGE
  qkey verify --key lock-2026.pem --signature signature.txt --challenge-file challenge.txt

$ qkey config --help
Show the settings in force, or create a configuration file

Usage: qkey config [COMMAND]

Commands:
  show  Show the settings in force and where they come from (default)
  init  Create a commented configuration file; never overwrites one

Options:
  -h, --help  Print help

Examples:
  qkey config show
  qkey config init

$ qkey config show --help
Show the settings in force and where they come from (default)

Usage: qkey config show

Options:
  -h, --help  Print help

$ qkey config init --help
Create a commented configuration file; never overwrites one

Usage: qkey config init [OPTIONS]

Options:
      --file <PATH>  Path to create instead of the default; `-` is stdout
  -h, --help         Print help

Examples:
  qkey config init
  qkey config init --file -


"#]]
        .raw()
    );
}

#[test]
fn overview_fits_in_25_lines() {
    let overview = help("", "-h");
    assert!(overview.lines().count() < 25, "{overview}");
    let (before_options, _) = overview.split_once("Options:").unwrap();
    assert!(help("", "--help").starts_with(before_options));
    assert_data_eq!(
        overview,
        str![[r#"
Manage Qumulo lock keys: add, replace, lock, unlock, prove

Usage: qkey <COMMAND>

Commands:
  add       Store the public half of a key in the cluster's key store
  replace   Replace a stored key; both the old and the new private key sign
  unlock    Unlock snapshots
  lock      Lock a snapshot with a stored key
  keys      Show the cluster's key store
  generate  Generate a private key; never overwrites one
  pubkey    Print the public half of a key
  sign      Sign a challenge without a cluster
  verify    Verify a signature over a challenge without a cluster
  config    Show the settings in force, or create a configuration file
  help      Show help for a command or topic

Options:
  -h, --help     Print help (see more with '--help')
  -V, --version  Print version

See `qkey COMMAND --help` for a command, and `qkey help TOPIC` for these topics:
exit-codes, environment, key-sources

"#]]
        .raw()
    );
}

#[test]
fn global_options_take_one_line_each_and_cluster_options_need_a_cluster() {
    let with_cluster = help("add", "-h");
    let (_, with_cluster) = with_cluster.split_once("Cluster options:").unwrap();
    let without_cluster = help("sign", "-h");
    let (_, without_cluster) = without_cluster.split_once("Global options:").unwrap();
    for command in COMMANDS {
        for flag in ["-h", "--help"] {
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
    assert_data_eq!(
        with_cluster,
        str![[r#"

      --cluster <NAME>                Cluster name in the configuration file
      --host <HOST>                   Host name or address [default: this cluster node]
      --port <PORT>                   Port of the REST API [default: 8000]
      --credentials-store <PATH>      Credentials file, as for `qq --credentials-store`
      --ca-file <PEM>                 Trust only these CAs or this certificate (--via rest)
      --tls-fingerprint <sha256:HEX>  Trust only this certificate (--via rest)
      --insecure                      Trust any certificate, which exposes the token (--via rest)
      --qq <PATH>                     Path of the qq program [default: qq, from PATH]
      --via <TRANSPORT>               How to reach the cluster: qq, rest [default: qq]

Global options:
      --timeout <SECONDS>  Time limit for each call to a cluster or signer [default: 30]
      --output <FORMAT>    Output format: text, json [default: text]
      --color <WHEN>       When to use color: auto, always, never [default: auto]
      --no-input           Never prompt
      --config <FILE>      Configuration file [default: ~/.config/qkey/config.toml]
  -v, --verbose...         Show each step; -vv also shows the programs run
  -q, --quiet              Hide warnings and progress

"#]]
        .raw()
    );
    assert!(with_cluster.ends_with(without_cluster), "{without_cluster}");
}

#[test]
fn help_topics_and_commands_are_printed() {
    assert_eq!(help("help", "keys usage"), help("keys usage", "--help"));
    assert_eq!(help("keys", "help usage"), help("keys usage", "--help"));
    assert_eq!(help("help", ""), help("", "--help"));
    let qkey = Qkey::new().env("COLUMNS", "100");
    assert_session!(
        qkey,
        str![[r#"
$ qkey help exit-codes
Exit codes

    0              done, or already in the requested state
    1 internal     anything that has no kind of its own
    2 usage        bad arguments or configuration
    3 key          a key source cannot be opened or cannot sign
    4 mismatch     the key or signature does not match; nothing was sent
    5 refused      the cluster refused the request
    6 auth         not logged in, or no permission
    7 unreachable  the cluster or qq did not respond, or qq is missing
    8 unknown      submitted, but the outcome could not be confirmed
    9 partial      some items succeeded and some failed
  130 interrupted  ended by SIGINT
  143 terminated   ended by SIGTERM or SIGHUP

With --output json, an error is an object on stderr:

  {"error": {"kind", "message", "causes", "hint", "exit_code"}}

Rerunning a command is always safe: it first checks what has been done.
$ qkey help environment
Environment variables

Each global option can be set by a variable. A flag overrides its variable, which
overrides the configuration file; `qkey config show` lists the settings in force.

  QKEY_CLUSTER            --cluster
  QKEY_HOST               --host
  QKEY_PORT               --port
  QKEY_CREDENTIALS_STORE  --credentials-store
  QKEY_CA_FILE            --ca-file
  QKEY_TLS_FINGERPRINT    --tls-fingerprint
  QKEY_INSECURE           --insecure
  QKEY_QQ                 --qq
  QKEY_VIA                --via
  QKEY_TIMEOUT            --timeout
  QKEY_OUTPUT             --output
  QKEY_COLOR              --color
  QKEY_NO_INPUT           --no-input
  QKEY_CONFIG             --config
  QKEY_VERBOSE            --verbose: 0, 1 or 2
  QKEY_QUIET              --quiet

Variables without a flag:

  QKEY_TOKEN              access token for the REST API
  QKEY_TOKEN_FILE         file that holds nothing but the access token
  NO_COLOR                if set, turns color off by default
  XDG_CONFIG_HOME         directory of qkey/config.toml [default: ~/.config]
  HTTPS_PROXY, NO_PROXY   proxy for --via rest

A cluster named by --cluster ignores variables that describe another cluster, such
as QKEY_HOST and QKEY_TOKEN.
$ qkey help key-sources
Key sources

A key source says where a private key lives. It is a name from the configuration
file, a path, or a URI. Attributes follow `?`, separated by `&`:

  PATH or file:PATH (`-` is stdin)
      ?passphrase-env|file|fd|command
  ssh-agent:SHA256:FINGERPRINT or ssh-agent:COMMENT
  plugin:NAME:REFERENCE
  awskms:///KEY-ID, awskms:///alias/NAME or awskms:///ARN
      ?region, profile, endpoint-url
  gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V
      ?configuration, impersonate-service-account, protection-level
  azurekms://VAULT/KEY or azurekms://VAULT/KEY/VERSION
      ?protection
  hashivault://KEY
      ?mount, key-version, tool
  pkcs11:token=T;object=O?module-path=M&pin-file=P
      ?module-path, module-name, pin-source, pin-value, pin-env|file|fd|command
  openssl:PATH
      ?provider, engine, passphrase-env|file|fd|command

A passphrase or PIN comes from one of these attributes: -env=VARIABLE, -file=PATH,
-fd=NUMBER or -command=COMMAND. Otherwise qkey prompts on the terminal, unless
--no-input is given. Percent-encode `%`, `&`, `?` and `#` within values.

To name a source, add it to the configuration file:

  [keys.lock-2026]
  source = "awskms:///alias/lock-2026?region=eu-west-1"
$ qkey help sing
--- exit 2
error: unrecognized subcommand 'sing'

  tip: a similar subcommand exists: 'sign'

Usage: qkey <COMMAND>

For more information, try '--help'.

"#]]
    );
}

#[test]
fn global_options_are_accepted_before_and_after_command() {
    let qkey = Qkey::new();
    let expected = prints(&qkey, "qkey --output json config show --timeout 5");
    assert_eq!(
        prints(&qkey, "qkey config"),
        prints(&qkey, "qkey config show")
    );
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
    for line in ["qkey", "QKEY_HOST=cluster qkey", "qkey --host cluster"] {
        let run = shell::run(&qkey, line);
        assert_eq!((run.code, &*run.stdout), (2, ""), "{line}");
        assert_eq!(run.stderr, prints(&qkey, "qkey -h"), "{line}");
    }
    assert_session!(
        qkey,
        str![[r#"
$ qkey --output json
--- exit 2
{"error":{"kind":"usage","message":"'qkey' requires a subcommand but one was not provided [subcommands: add, replace, unlock, lock, keys, generate, pubkey, sign, verify, config, help]","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ qkey unlock --output json
--- exit 2
{"error":{"kind":"usage","message":"the following required arguments were not provided: <ID|--id <N>|--ids-from <FILE>>","causes":[],"hint":"see `qkey --help`","exit_code":2}}

"#]]
    );
}

#[test]
fn wrong_host_and_unused_token_are_noted_with_qq_too() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_session!(
        qkey,
        str![[r#"
$ qkey keys --host localhost:8000
--- exit 2
error: "localhost:8000" is not a valid host name
hint: give only the name or address; use --port for the port
$ qkey keys --host 'qumulo.example.com '
--- exit 2, hint as above
error: "qumulo.example.com " is not a valid host name
$ qkey keys --host https://qumulo.example.com
--- exit 2, hint as above
error: "https://qumulo.example.com" is not a valid host name
$ qkey keys --host fe80::1%eth0
The key store is empty.
$ QKEY_TOKEN=x qkey keys
The key store is empty.
--- exit 0
warning: QKEY_TOKEN has no effect with --via qq: qq uses its own login; use --via rest

"#]]
    );
}

#[test]
fn misspelled_command_or_flag_suggests_nearest() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
        str![[r#"
$ qkey unlok --id 1
--- exit 2
error: unrecognized subcommand 'unlok'

  tip: a similar subcommand exists: 'unlock'

Usage: qkey <COMMAND>

For more information, try '--help'.
$ qkey nonsense
--- exit 2, hint as above
error: unrecognized subcommand 'nonsense'

Usage: qkey <COMMAND>
$ qkey delete
--- exit 2, hint as above
error: unrecognized subcommand 'delete'


Usage: qkey <COMMAND>
$ qkey rename
--- exit 2, hint as above
error: unrecognized subcommand 'rename'


Usage: qkey <COMMAND>
$ qkey keys lst
--- exit 2, hint as above
error: unrecognized subcommand 'lst'

  tip: a similar subcommand exists: 'list'

Usage: qkey keys [OPTIONS]
       qkey keys <COMMAND>
$ qkey add --nmae x --key alice.pem
--- exit 2, hint as above
error: unexpected argument '--nmae' found

  tip: a similar argument exists: '--name'

Usage: qkey add --name <NAME> --key <SOURCE>
$ qkey add --name x
--- exit 2, hint as above
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE>
$ qkey unlock --id one
--- exit 2, hint as above
error: invalid value 'one' for '--id <N>': not a snapshot id; write 7, 7,8 or 7-9
$ qkey unlock 7-x
--- exit 2, hint as above
error: invalid value '7-x' for '[ID]...': not a snapshot id; write 7, 7,8 or 7-9
$ qkey unlock --id 9-7
--- exit 2, hint as above
error: invalid value '9-7' for '--id <N>': the range ends before it begins; write 7-9
$ qkey unlock --id 1-100001
--- exit 2, hint as above
error: invalid value '1-100001' for '--id <N>': a range has at most 100000 ids
$ QKEY_NO_INPUT=maybe qkey config
--- exit 2, hint as above
error: invalid value 'maybe' for '--no-input': expected true or false
$ qkey unlock --id -1
--- exit 2, hint as above
error: unexpected argument '-1' found

  tip: to pass '-1' as a value, use '-- -1'

Usage: qkey unlock [OPTIONS] <ID|--id <N>|--ids-from <FILE>>
$ qkey unlock
--- exit 2, hint as above
error: the following required arguments were not provided:
  <ID|--id <N>|--ids-from <FILE>>

Usage: qkey unlock <ID|--id <N>|--ids-from <FILE>>
$ qkey replace -k 1 --new-key alice.pem --attempts 0
--- exit 2, hint as above
error: invalid value '0' for '--attempts <N>': 0 is not in 1..=4294967295
$ qkey generate new.pem --format jwk
--- exit 2, hint as above
error: invalid value 'jwk' for '--format <FORMAT>'
  [possible values: pkcs8, sec1, openssh]
$ qkey pubkey alice.pem bob.pem
--- exit 2, hint as above
error: unexpected argument 'bob.pem' found

Usage: qkey pubkey [OPTIONS] <SOURCE>
$ qkey --hots x keys
--- exit 2, hint as above
error: unexpected argument '--hots' found

  tip: a similar argument exists: '--host'

Usage: qkey <COMMAND>
$ qkey keys show
--- exit 2
error: specify a key id or name
hint: `qkey keys list` shows them
$ qkey keys show 1 --key-id 1
--- exit 2
error: the argument '[ID-OR-NAME]' cannot be used with '--key-id <ID-OR-NAME>'

Usage: qkey keys show [OPTIONS] <ID-OR-NAME>

For more information, try '--help'.

"#]]
    );
}

#[test]
fn usage_error_is_json_object_with_output_json() {
    // No test may find a qq of whoever runs it.
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    assert_session!(
        qkey,
        str![[r#"
$ qkey ad --output json
--- exit 2
{"error":{"kind":"usage","message":"unrecognized subcommand 'ad'","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ qkey --output=json add --nmae x
--- exit 2
{"error":{"kind":"usage","message":"unexpected argument '--nmae' found","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ QKEY_OUTPUT=json qkey add --name x
--- exit 2
{"error":{"kind":"usage","message":"the following required arguments were not provided: --key <SOURCE>","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ QKEY_OUTPUT=json qkey add --name x --output text
$ QKEY_OUTPUT=json qkey add --name x --output=text
--- exit 2
error: the following required arguments were not provided:
  --key <SOURCE>

Usage: qkey add --name <NAME> --key <SOURCE>

For more information, try '--help'.
$ QKEY_OUTPUT=text qkey add --name x --output json
--- exit 2
{"error":{"kind":"usage","message":"the following required arguments were not provided: --key <SOURCE>","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ qkey sign --key alice.pem x --format raw --output json
--- exit 2
{"error":{"kind":"usage","message":"invalid value 'raw' for '--format <FORMAT>' [possible values: base64, der, hex, p1363]","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ qkey keys show --output json
--- exit 2
{"error":{"kind":"usage","message":"specify a key id or name","causes":[],"hint":"`qkey keys list` shows them","exit_code":2}}
$ qkey verify --output json
--- exit 2
{"error":{"kind":"usage","message":"the following required arguments were not provided: --signature <SIGNATURE> --public-key <PUBLIC-KEY>","causes":[],"hint":"see `qkey --help`","exit_code":2}}
$ qkey --output json --version
qkey [VERSION]

"#]]
    );
}

#[test]
fn quiet_overrides_verbose() {
    assert_session!(
        Qkey::new(),
        str![[r#"
$ echo | qkey sign --key 'alice.pem' -vv > /dev/null
--- exit 0
warning: the trailing newline was signed too; the cluster will reject this (use `jq -j`)
$ echo | qkey sign --key 'alice.pem' -q > /dev/null
$ echo | qkey sign --key 'alice.pem' -vvvq > /dev/null
$ echo | QKEY_QUIET=1 qkey sign --key alice.pem > /dev/null
--- exit 0
$ echo | QKEY_QUIET=0 qkey sign --key alice.pem > /dev/null
--- exit 0
warning: the trailing newline was signed too; the cluster will reject this (use `jq -j`)
$ QKEY_VERBOSE=many qkey pubkey alice.pem --format base64
--- exit 2
error: invalid value 'many' for '--verbose...': invalid digit found in string

For more information, try '--help'.
$ QKEY_VERBOSE= qkey pubkey alice.pem --format base64
--- exit 2, hint as above
error: invalid value '' for '--verbose...': cannot parse integer from empty string
$ QKEY_NO_INPUT= qkey pubkey alice.pem --format base64
[ALICE]

"#]]
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
fn full_stdout_is_an_error_that_says_what_was_done() {
    let mock = Mock::with_four_locked(ALICE_PUBLIC);
    assert_session!(
        Qkey::with_mock(&mock),
        str![[r#"
$ qkey add --name new --key bob.pem > /dev/full
--- exit 1
error: Stored key 2 ("new") in the key store, SHA256:[BOB], but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done
$ qkey add --name new --key bob.pem > /dev/full
--- exit 1, hint as above
error: Already stored as key 2 ("new"), SHA256:[BOB], but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
$ qkey unlock --id 1 --key alice.pem --dry-run > /dev/full
--- exit 1, hint as above
error: Dry run: key 1 ("lock") can unlock snapshot 1 ("1_before_upgrade"); signature verified, nothing sent, challenge: "Unlock snapshot 1 locked with key 1, expiration \"\"", but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
$ qkey unlock --id 1 --key alice.pem > /dev/full
--- exit 1, hint as above
error: Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock"), but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
$ qkey unlock --id 2 --id 3 --jobs 1 --key alice.pem > /dev/full
--- exit 1, hint as above
error: Unlocked 2, already unlocked 0, failed 0, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
$ qkey unlock --id 4 --id 99 --jobs 1 --key alice.pem > /dev/full
--- exit 9
error: snapshot 99 does not exist on cluster:8000
  caused by: Error 404: fs_no_such_entry_error: There is no snapshot 99.
hint: `[QQ] --host=cluster snapshot_list_statuses` shows what exists
error: Unlocked 1, already unlocked 0, failed 1, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: rerunning is safe: it reports what is already done
error: 1 of 2 snapshots failed
hint: see the errors above; rerunning is safe: what is already unlocked is left alone
$ qkey lock --id 1 --lock-key lock --output json > /dev/full
--- exit 1
{"error":{"kind":"internal","message":"Locked snapshot 1 (\"1_before_upgrade\") with key 1 (\"lock\"), but the result cannot be written to stdout","causes":["No space left on device (os error 28)"],"hint":"rerunning is safe: it reports what is already done","exit_code":1}}
$ qkey replace -k lock --old-key alice.pem --new-key carol.pem > /dev/full
--- exit 1, hint as above
error: Replaced key 1 ("lock"), was SHA256:[ALICE], now SHA256:[CAROL], but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
$ qkey config init > /dev/full
--- exit 1
error: Wrote [DIR]/.config/qkey/config.toml, a template with everything commented out; edit it next, but the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: the file is complete; there is nothing left to do
$ qkey pubkey alice.pem > /dev/full
$ qkey pubkey alice.pem --format der > /dev/full
$ qkey config show > /dev/full
$ qkey config init --file - > /dev/full
$ qkey keys > /dev/full
$ qkey --version > /dev/full
--- exit 1
error: the result cannot be written to stdout
  caused by: No space left on device (os error 28)
hint: nothing was changed; redirect the output elsewhere and rerun
$ qkey --help --output json > /dev/full
$ qkey sign --key alice.pem x --output json > /dev/full
--- exit 1
{"error":{"kind":"internal","message":"the result cannot be written to stdout","causes":["No space left on device (os error 28)"],"hint":"nothing was changed; redirect the output elsewhere and rerun","exit_code":1}}
$ qkey pubkey alice.pem >&-
--- exit 0

"#]]
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
