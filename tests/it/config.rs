//! The configuration file, the environment, and flags: what is in force, and why.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use crate::support::{
    mock::Mock,
    qkey::{Qkey, public_key_base64},
    shell::{self, prints, transcript},
};
use snapbox::{IntoData, assert_data_eq, str};

/// A file that sets everything.
const FULL: &str = r#"
default-cluster = "prod"

[clusters.prod]
host = "prod.example.com"
port = 8001
credentials-store = "~/credentials/prod"
qq = "~/bin/qq"
via = "qq"
timeout = 11

[clusters.lab]
host = "lab.example.com"

[keys.vault-2026]
source = "keys/vault.pem?passphrase-env=VAULT"

[keys.alice]
source = "~/alice.pem"

[defaults]
qq = "/opt/qumulo/qq"
via = "qq"
timeout = 12
output = "text"
color = "never"
no-input = true
"#;

/// A transcript with the columns of its tables no further apart than two blanks: how wide they are
/// depends on where the temporary folder is.
fn narrow(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    text
}

#[test]
fn nothing_is_configured_at_first() {
    assert_data_eq!(
        transcript(&Qkey::new(), ["qkey config show", "qkey config show --output json"]),
        str![[r#"
$ qkey config show
Configuration file: none

SETTING            VALUE       FROM
cluster            -           default
host               -           default
port               8000        default
credentials-store  -           default
token              -           default
trust              system CAs  default
qq                 qq          default
via                qq          default
timeout            30          default
output             text        default
color              auto        default
no-input           false       default

No keys are configured.

$ qkey config show --output json
{"file":null,"settings":{"cluster":{"value":null,"origin":"default"},"host":{"value":null,"origin":"default"},"port":{"value":8000,"origin":"default"},"credentials-store":{"value":null,"origin":"default"},"token":{"value":null,"origin":"default"},"trust":{"value":"system CAs","origin":"default"},"qq":{"value":"qq","origin":"default"},"via":{"value":"qq","origin":"default"},"timeout":{"value":30,"origin":"default"},"output":{"value":"json","origin":"flag, --output"},"color":{"value":"auto","origin":"default"},"no-input":{"value":false,"origin":"default"}},"keys":{}}


"#]].raw()
    );
}

#[test]
fn the_file_sets_everything() {
    let qkey = Qkey::new();
    qkey.configure(FULL);
    assert_data_eq!(
        narrow(&transcript(&qkey, ["qkey config show", "qkey config show --output json"])),
        str![[r#"
$ qkey config show
Configuration file: [DIR]/.config/qkey/config.toml

SETTING  VALUE  FROM
cluster  prod  file, default-cluster
host  prod.example.com  file, clusters.prod.host
port  8001  file, clusters.prod.port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store
token  -  default
trust  system CAs  default
qq  [DIR]/bin/qq  file, clusters.prod.qq
via  qq  file, clusters.prod.via
timeout  11  file, clusters.prod.timeout
output  text  file, defaults.output
color  never  file, defaults.color
no-input  true  file, defaults.no-input

KEY  SOURCE
alice  ~/alice.pem
vault-2026  keys/vault.pem?passphrase-env=VAULT

$ qkey config show --output json
{"file":"[DIR]/.config/qkey/config.toml","settings":{"cluster":{"value":"prod","origin":"file, default-cluster"},"host":{"value":"prod.example.com","origin":"file, clusters.prod.host"},"port":{"value":8001,"origin":"file, clusters.prod.port"},"credentials-store":{"value":"[DIR]/credentials/prod","origin":"file, clusters.prod.credentials-store"},"token":{"value":null,"origin":"default"},"trust":{"value":"system CAs","origin":"default"},"qq":{"value":"[DIR]/bin/qq","origin":"file, clusters.prod.qq"},"via":{"value":"qq","origin":"file, clusters.prod.via"},"timeout":{"value":11,"origin":"file, clusters.prod.timeout"},"output":{"value":"json","origin":"flag, --output"},"color":{"value":"never","origin":"file, defaults.color"},"no-input":{"value":true,"origin":"file, defaults.no-input"}},"keys":{"alice":{"source":"~/alice.pem"},"vault-2026":{"source":"keys/vault.pem?passphrase-env=VAULT"}}}


"#]].raw()
    );
}

#[test]
fn a_cluster_that_says_less_falls_back_to_the_defaults() {
    let qkey = Qkey::new();
    qkey.configure(FULL);
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey config show --cluster lab",
                "QKEY_CLUSTER=lab qkey config show"
            ]
        ),
        str![[r#"
$ qkey config show --cluster lab
Configuration file: [DIR]/.config/qkey/config.toml

SETTING            VALUE            FROM
cluster            lab              flag, --cluster
host               lab.example.com  file, clusters.lab.host
port               8000             default
credentials-store  -                default
token              -                default
trust              system CAs       default
qq                 /opt/qumulo/qq   file, defaults.qq
via                qq               file, defaults.via
timeout            12               file, defaults.timeout
output             text             file, defaults.output
color              never            file, defaults.color
no-input           true             file, defaults.no-input

KEY         SOURCE
alice       ~/alice.pem
vault-2026  keys/vault.pem?passphrase-env=VAULT

$ QKEY_CLUSTER=lab qkey config show
Configuration file: [DIR]/.config/qkey/config.toml

SETTING            VALUE            FROM
cluster            lab              environment, QKEY_CLUSTER
host               lab.example.com  file, clusters.lab.host
port               8000             default
credentials-store  -                default
token              -                default
trust              system CAs       default
qq                 /opt/qumulo/qq   file, defaults.qq
via                qq               file, defaults.via
timeout            12               file, defaults.timeout
output             text             file, defaults.output
color              never            file, defaults.color
no-input           true             file, defaults.no-input

KEY         SOURCE
alice       ~/alice.pem
vault-2026  keys/vault.pem?passphrase-env=VAULT


"#]]
        .raw()
    );
}

/// Every setting with a value for the environment and another for a flag.
const SETTINGS: [(&str, &str, &str); 10] = [
    ("cluster", "prod", "lab"),
    ("host", "env.example.com", "flag.example.com"),
    ("port", "8002", "8003"),
    ("credentials-store", "/env/credentials", "/flag/credentials"),
    ("qq", "/env/qq", "/flag/qq"),
    ("via", "qq", "qq"),
    ("timeout", "21", "22"),
    ("output", "text", "json"),
    ("color", "always", "auto"),
    ("no-input", "true", ""),
];

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let mut text = String::new();
    for (name, in_environment, as_flag) in SETTINGS {
        let variable = format!("QKEY_{}", name.replace('-', "_").to_uppercase());
        let flag = match as_flag {
            "" => format!("--{name}"),
            value => format!("--{name}={value}"),
        };
        let value = |qkey: &Qkey, args: &[&str]| {
            // Only the form of what is shown may differ.
            let mut all = vec!["config", "show"];
            if name != "output" {
                all.push("--output=json");
            }
            // As it is: a snapshot's redactions would take the values out.
            let output = qkey.command([&all, args].concat()).output().unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            let folder = qkey.path("").display().to_string();
            let stdout = stdout.replace(&folder, "[DIR]/");
            match serde_json::from_str::<serde_json::Value>(&stdout) {
                Ok(shown) => shown["settings"][name].to_string(),
                Err(_) => {
                    let mut lines = stdout.lines();
                    narrow(lines.find(|line| line.starts_with(name)).unwrap())
                }
            }
        };
        let qkey = Qkey::new();
        qkey.configure(FULL);
        text += &format!("{name}\n  {}\n", value(&qkey, &[]));
        let qkey = qkey.env(&variable, in_environment);
        text += &format!("  {}\n  {}\n", value(&qkey, &[]), value(&qkey, &[&flag]));
    }
    assert_data_eq!(
        text,
        str![[r#"
cluster
  {"value":"prod","origin":"file, default-cluster"}
  {"value":"prod","origin":"environment, QKEY_CLUSTER"}
  {"value":"lab","origin":"flag, --cluster"}
host
  {"value":"prod.example.com","origin":"file, clusters.prod.host"}
  {"value":"env.example.com","origin":"environment, QKEY_HOST"}
  {"value":"flag.example.com","origin":"flag, --host"}
port
  {"value":8001,"origin":"file, clusters.prod.port"}
  {"value":8002,"origin":"environment, QKEY_PORT"}
  {"value":8003,"origin":"flag, --port"}
credentials-store
  {"value":"[DIR]/credentials/prod","origin":"file, clusters.prod.credentials-store"}
  {"value":"/env/credentials","origin":"environment, QKEY_CREDENTIALS_STORE"}
  {"value":"/flag/credentials","origin":"flag, --credentials-store"}
qq
  {"value":"[DIR]/bin/qq","origin":"file, clusters.prod.qq"}
  {"value":"/env/qq","origin":"environment, QKEY_QQ"}
  {"value":"/flag/qq","origin":"flag, --qq"}
via
  {"value":"qq","origin":"file, clusters.prod.via"}
  {"value":"qq","origin":"environment, QKEY_VIA"}
  {"value":"qq","origin":"flag, --via"}
timeout
  {"value":11,"origin":"file, clusters.prod.timeout"}
  {"value":21,"origin":"environment, QKEY_TIMEOUT"}
  {"value":22,"origin":"flag, --timeout"}
output
  output  text  file, defaults.output
  output  text  environment, QKEY_OUTPUT
  {"value":"json","origin":"flag, --output"}
color
  {"value":"never","origin":"file, defaults.color"}
  {"value":"always","origin":"environment, QKEY_COLOR"}
  {"value":"auto","origin":"flag, --color"}
no-input
  {"value":true,"origin":"file, defaults.no-input"}
  {"value":true,"origin":"environment, QKEY_NO_INPUT"}
  {"value":true,"origin":"flag, --no-input"}

"#]]
        .raw()
    );
}

#[test]
fn another_host_is_another_cluster() {
    let qkey = Qkey::new();
    qkey.configure(FULL);
    // Neither port nor credentials of the configured cluster belong to a host that was typed, but
    // a cluster that was typed too is meant.
    assert_data_eq!(
        narrow(&transcript(
            &qkey,
            [
                "qkey config show --host other.example.com",
                "QKEY_HOST=other.example.com qkey config show",
                "qkey config show --host other.example.com --cluster prod",
                "QKEY_HOST=other.example.com qkey config show --cluster prod",
                "QKEY_CLUSTER=prod qkey config show --host other.example.com",
            ]
            .map(|line| line.to_owned() + " | sed -n '3,7p'")
            .iter()
            .map(String::as_str)
        )),
        str![[r#"
$ qkey config show --host other.example.com | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  -  default
host  other.example.com  flag, --host
port  8000  default
credentials-store  -  default

$ QKEY_HOST=other.example.com qkey config show | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  -  default
host  other.example.com  environment, QKEY_HOST
port  8000  default
credentials-store  -  default

$ qkey config show --host other.example.com --cluster prod | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  prod  flag, --cluster
host  other.example.com  flag, --host
port  8001  file, clusters.prod.port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store

$ QKEY_HOST=other.example.com qkey config show --cluster prod | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  prod  flag, --cluster
host  prod.example.com  file, clusters.prod.host
port  8001  file, clusters.prod.port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store

$ QKEY_CLUSTER=prod qkey config show --host other.example.com | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  -  default
host  other.example.com  flag, --host
port  8000  default
credentials-store  -  default


"#]]
        .raw()
    );
}

#[test]
fn every_mistake_is_named_with_its_file_and_line() {
    let mut text = String::new();
    for mistake in [
        "defualt-cluster = \"prod\"\n",
        "default-cluster = 7\n",
        "default-cluster = \"prud\"\n\n[clusters.prod]\nhost = \"a\"\n",
        "default-cluster = \"prod\"\n",
        "[cluster.prod]\nhost = \"a\"\n",
        "[clusters.prod]\nhots = \"a\"\n",
        "[clusters.prod]\nhost = \"a\"\nhost = \"b\"\n",
        "[clusters.prod]\nport = 80000\n",
        "[clusters.prod]\nport = \"8000\"\n",
        "[clusters.prod]\nhost = \"\"\n[clusters.lab]\nvia = \"soap\"\n",
        "[clusters.prod]\ntimeout = 0\n",
        "[clusters.prod]\ntimeout = -1\n",
        "[defaults]\ntimeout = 0\n",
        "[defaults]\noutput = \"yaml\"\n",
        "[defaults]\ncolor = \"sometimes\"\n",
        "[defaults]\nno-input = \"yes\"\n",
        "[defaults]\nno_input = true\n",
        "[default]\ntimeout = 1\n",
        "[keys.alice]\n",
        "[keys.alice]\nsource = \"\"\n",
        "[keys.alice]\nsource = \"gpg:alice\"\n",
        "[keys.alice]\nsource = \"a.pem?passphrase-evn=X\"\n",
        "[keys.alice]\nsource = \"a.pem?passphrase-fd=x\"\n",
        "[keys.alice]\nsuorce = \"a.pem\"\n",
        "[keys]\nalice = \"a.pem\"\n",
        "[keys.\"a/b\"]\nsource = \"a.pem\"\n",
        "[keys.\"a:b\"]\nsource = \"a.pem\"\n",
        "[keys.\"a?b\"]\nsource = \"a.pem\"\n",
        "[keys.\"-\"]\nsource = \"a.pem\"\n",
        "[keys.\"\"]\nsource = \"a.pem\"\n",
        "host = \"a\n",
        "[clusters.prod\n",
        "= 1\n",
    ] {
        let qkey = Qkey::new();
        qkey.configure(mistake);
        let run = qkey.run(["config", "show"]);
        let shown = if run.code == 0 {
            "(is taken)\n"
        } else {
            &run.stderr
        };
        text += &shell::without_table(&format!("{mistake}exit {}\n{shown}\n", run.code));
    }
    assert_data_eq!(text, str![[r#"
defualt-cluster = "prod"
exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `defualt-cluster`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `default-cluster`?

default-cluster = 7
exit 2
error: [DIR]/.config/qkey/config.toml:1: invalid type: integer `7`, expected a string
hint: `qkey config init --file -` lists every key

default-cluster = "prud"

[clusters.prod]
host = "a"
exit 2
error: [DIR]/.config/qkey/config.toml:1: default-cluster is "prud", but that cluster is missing
hint: did you mean "prod"?

default-cluster = "prod"
exit 2
error: [DIR]/.config/qkey/config.toml:1: default-cluster is "prod", but that cluster is missing
hint: it has no clusters; `qkey config init --file -` shows how to add them

[cluster.prod]
host = "a"
exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `cluster`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `clusters`?

[clusters.prod]
hots = "a"
exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `hots`, expected one of `host`, `port`, `credentials-store`, `ca-file`, `tls-fingerprint`, `qq`, `via`, `timeout`
hint: did you mean `host`?

[clusters.prod]
host = "a"
host = "b"
exit 2
error: [DIR]/.config/qkey/config.toml:3: duplicate key
hint: `qkey config init --file -` lists every key

[clusters.prod]
port = 80000
exit 2
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `80000`, expected a number up to 65535
hint: `qkey config init --file -` lists every key

[clusters.prod]
port = "8000"
exit 2
error: [DIR]/.config/qkey/config.toml:2: expected a number up to 65535, found a string
hint: `qkey config init --file -` lists every key

[clusters.prod]
host = ""
[clusters.lab]
via = "soap"
exit 2
error: [DIR]/.config/qkey/config.toml:4: unknown variant `soap`, expected `qq` or `rest`
hint: `qkey config init --file -` lists every key

[clusters.prod]
timeout = 0
exit 2
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `0`, expected a number of at least 1
hint: `qkey config init --file -` lists every key

[clusters.prod]
timeout = -1
exit 2
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `-1`, expected a number of at least 1
hint: `qkey config init --file -` lists every key

[defaults]
timeout = 0
exit 2
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `0`, expected a number of at least 1
hint: `qkey config init --file -` lists every key

[defaults]
output = "yaml"
exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown variant `yaml`, expected `text` or `json`
hint: `qkey config init --file -` lists every key

[defaults]
color = "sometimes"
exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown variant `sometimes`, expected one of `auto`, `always`, `never`
hint: `qkey config init --file -` lists every key

[defaults]
no-input = "yes"
exit 2
error: [DIR]/.config/qkey/config.toml:2: expected a boolean, found a string
hint: `qkey config init --file -` lists every key

[defaults]
no_input = true
exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `no_input`, expected one of `qq`, `via`, `timeout`, `output`, `color`, `no-input`
hint: did you mean `no-input`?

[default]
timeout = 1
exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `default`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `defaults`?

[keys.alice]
exit 2
error: [DIR]/.config/qkey/config.toml:1: missing field `source`
hint: `qkey config init --file -` lists every key

[keys.alice]
source = ""
exit 2
error: [DIR]/.config/qkey/config.toml:2: "" is not a key source: empty
hint: a key source is one of: [TABLE] written ./PATH

[keys.alice]
source = "gpg:alice"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "gpg:alice" is not a key source: unknown scheme "gpg"
hint: a key source is one of: [TABLE] written ./PATH

[keys.alice]
source = "a.pem?passphrase-evn=X"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "a.pem?passphrase-evn=…" is not a key source: unknown attribute "passphrase-evn"
hint: did you mean "passphrase-env"? file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…

[keys.alice]
source = "a.pem?passphrase-fd=x"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "a.pem?passphrase-fd=x" is not a key source: passphrase-fd is not a file descriptor
hint: use a number, as in passphrase-fd=3

[keys.alice]
suorce = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `suorce`, expected `source`
hint: did you mean `source`?

[keys]
alice = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: expected a table, found a string
hint: `qkey config init --file -` lists every key

[keys."a/b"]
source = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "a/b" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`

[keys."a:b"]
source = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "a:b" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`

[keys."a?b"]
source = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "a?…" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`

[keys."-"]
source = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "-" is not a valid key name
hint: `-` means stdin; choose another name

[keys.""]
source = "a.pem"
exit 2
error: [DIR]/.config/qkey/config.toml:2: "" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`

host = "a
exit 2
error: [DIR]/.config/qkey/config.toml:1: invalid basic string, expected `"`
hint: `qkey config init --file -` lists every key

[clusters.prod
exit 2
error: [DIR]/.config/qkey/config.toml:1: unclosed table, expected `]`
hint: `qkey config init --file -` lists every key

= 1
exit 2
error: [DIR]/.config/qkey/config.toml:1: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
hint: `qkey config init --file -` lists every key


"#]].raw());
}

#[test]
fn a_file_that_is_not_text_or_not_a_file_is_an_error() {
    let qkey = Qkey::new();
    qkey.write("latin-1.toml", b"# caf\xe9\n");
    qkey.write("bom.toml", "\u{feff}[defaults]\ntimeout = 5\n");
    qkey.write("crlf.toml", "[defaults]\r\ntimeout = 5\r\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey config show --config latin-1.toml",
                "qkey config show --config .",
                "qkey config show --config bom.toml | grep timeout",
                "qkey config show --config crlf.toml | grep timeout",
                "qkey config show --config /dev/null | head -1",
            ]
        ),
        str![[r#"
$ qkey config show --config latin-1.toml
--- exit 2
error: cannot read the configuration file latin-1.toml
  caused by: invalid utf-8 sequence of 1 bytes from index 5
hint: it must be a readable UTF-8 file

$ qkey config show --config .
--- exit 2
error: cannot read the configuration file .
  caused by: Is a directory (os error 21)
hint: it must be a readable UTF-8 file

$ qkey config show --config bom.toml | grep timeout
timeout            5           file, defaults.timeout

$ qkey config show --config crlf.toml | grep timeout
timeout            5           file, defaults.timeout

$ qkey config show --config /dev/null | head -1
Configuration file: /dev/null


"#]]
        .raw()
    );
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey config show --config missing.toml",
                "QKEY_CONFIG=missing.toml qkey config show",
                "qkey config show --config missing.toml --output json",
                "qkey pubkey alice.pem --config missing.toml",
            ]
        ),
        str![[r#"
$ qkey config show --config missing.toml
--- exit 2
error: cannot read the configuration file missing.toml
  caused by: No such file or directory (os error 2)
hint: `qkey config init` creates one

$ QKEY_CONFIG=missing.toml qkey config show
--- exit 2
error: cannot read the configuration file missing.toml
  caused by: No such file or directory (os error 2)
hint: `qkey config init` creates one

$ qkey config show --config missing.toml --output json
--- exit 2
{"error":{"kind":"usage","message":"cannot read the configuration file missing.toml","causes":["No such file or directory (os error 2)"],"hint":"`qkey config init` creates one","exit_code":2}}

$ qkey pubkey alice.pem --config missing.toml
--- exit 2
error: cannot read the configuration file missing.toml
  caused by: No such file or directory (os error 2)
hint: `qkey config init` creates one


"#]].raw()
    );
}

#[test]
fn the_file_is_found_as_the_xdg_specification_has_it() {
    let qkey = Qkey::new();
    for (folder, seconds) in [(".config", 1), ("xdg", 2)] {
        qkey.write(
            &format!("{folder}/qkey/config.toml"),
            format!("[defaults]\ntimeout = {seconds}\n"),
        );
    }
    qkey.write("named.toml", "[defaults]\ntimeout = 3\n");
    qkey.write("flag.toml", "[defaults]\ntimeout = 4\n");
    let which = |settings: &str, flags: &str| {
        let shown = prints(&qkey, &format!("{settings} qkey config show {flags}"));
        shown.lines().next().unwrap().to_owned()
    };
    assert_eq!(
        which("", ""),
        "Configuration file: [DIR]/.config/qkey/config.toml"
    );
    assert_eq!(
        which("XDG_CONFIG_HOME=$PWD/xdg", ""),
        "Configuration file: [DIR]/xdg/qkey/config.toml"
    );
    for invalid in [
        "XDG_CONFIG_HOME=xdg",
        "XDG_CONFIG_HOME=./xdg",
        "XDG_CONFIG_HOME=",
    ] {
        assert_eq!(
            which(invalid, ""),
            "Configuration file: [DIR]/.config/qkey/config.toml"
        );
    }
    assert_eq!(
        which("XDG_CONFIG_HOME=$PWD/none", ""),
        "Configuration file: none"
    );
    assert_eq!(
        which("QKEY_CONFIG=named.toml", ""),
        "Configuration file: named.toml"
    );
    assert_eq!(
        which("QKEY_CONFIG=named.toml", "--config flag.toml"),
        "Configuration file: flag.toml"
    );
    assert_eq!(
        which("QKEY_CONFIG=missing.toml", "--config flag.toml"),
        "Configuration file: flag.toml"
    );
}

#[test]
fn an_unknown_cluster_is_an_error_that_names_the_nearest() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(&qkey, ["qkey config show --cluster prod"]),
        str![[r#"
$ qkey config show --cluster prod
--- exit 2
error: no cluster "prod" in the configuration file
hint: it has no clusters; `qkey config init --file -` shows how to add them


"#]]
        .raw()
    );
    qkey.configure(FULL);
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey config show --cluster prdo",
                "qkey config show --cluster nothing-like-it",
                "QKEY_CLUSTER=PROD qkey config show --output json",
                "qkey config show --cluster ''",
            ]
        ),
        str![[r#"
$ qkey config show --cluster prdo
--- exit 2
error: no cluster "prdo" in the configuration file
hint: did you mean "prod"?

$ qkey config show --cluster nothing-like-it
--- exit 2
error: no cluster "nothing-like-it" in the configuration file
hint: it has these clusters: lab, prod

$ QKEY_CLUSTER=PROD qkey config show --output json
--- exit 2
{"error":{"kind":"usage","message":"no cluster \"PROD\" in the configuration file","causes":[],"hint":"it has these clusters: lab, prod","exit_code":2}}

$ qkey config show --cluster ''
--- exit 2
error: no cluster "" in the configuration file
hint: it has these clusters: lab, prod


"#]].raw()
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    assert_data_eq!(
        transcript(
            &Qkey::new(),
            [
                "qkey config show --port 65536",
                "qkey config show --port 0 | grep port",
                "qkey config show --timeout 0",
                "qkey config show --host ''",
                "QKEY_HOST= qkey config show",
                "QKEY_PORT= qkey config show",
                "QKEY_TIMEOUT=soon qkey config show",
                "qkey config show --timeout 18446744073709551615 | grep timeout",
                "qkey config show --via soap",
                "qkey config show --color sometimes",
                "qkey config show --output yaml",
                "QKEY_OUTPUT=yaml qkey config show",
            ]
        ),
        str![[r#"
$ qkey config show --port 65536
--- exit 2
error: invalid value '65536' for '--port <PORT>': 65536 is not in 0..=65535

For more information, try '--help'.

$ qkey config show --port 0 | grep port
port               0           flag, --port

$ qkey config show --timeout 0
--- exit 2
error: invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..18446744073709551615

For more information, try '--help'.

$ qkey config show --host ''
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node

$ QKEY_HOST= qkey config show
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node

$ QKEY_PORT= qkey config show
--- exit 2
error: invalid value '' for '--port <PORT>': cannot parse integer from empty string

For more information, try '--help'.

$ QKEY_TIMEOUT=soon qkey config show
--- exit 2
error: invalid value 'soon' for '--timeout <SECONDS>': invalid digit found in string

For more information, try '--help'.

$ qkey config show --timeout 18446744073709551615 | grep timeout
timeout            4294967295  flag, --timeout

$ qkey config show --via soap
--- exit 2
error: invalid value 'soap' for '--via <TRANSPORT>'
  [possible values: qq, rest]

For more information, try '--help'.

$ qkey config show --color sometimes
--- exit 2
error: invalid value 'sometimes' for '--color <WHEN>'
  [possible values: auto, always, never]

For more information, try '--help'.

$ qkey config show --output yaml
--- exit 2
error: invalid value 'yaml' for '--output <FORMAT>'
  [possible values: text, json]

For more information, try '--help'.

$ QKEY_OUTPUT=yaml qkey config show
--- exit 2
error: invalid value 'yaml' for '--output <FORMAT>'
  [possible values: text, json]

For more information, try '--help'.


"#]]
        .raw()
    );
}

#[test]
fn a_configuration_file_is_begun_and_never_overwritten() {
    let qkey = Qkey::new();
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "umask 000; qkey config init",
                "stat -c '%a %n' .config/qkey .config/qkey/config.toml",
                "qkey config init",
                "qkey config init --output json",
                "qkey config init --file sub/folder/other.toml --output json",
                "qkey config init --file sub/folder/other.toml",
                "qkey config init --config third.toml",
                "QKEY_CONFIG=fourth.toml qkey config init",
                "qkey config init --file alice.pem/config.toml",
                "ln -s nowhere dangling; qkey config init --file dangling",
                "qkey config show | head -1",
                "env -u HOME XDG_CONFIG_HOME=$PWD/xdg qkey config init",
            ]
        ),
        str![[r#"
$ umask 000; qkey config init
Wrote [DIR]/.config/qkey/config.toml, a template with everything commented out; edit it next.

$ stat -c '%a %n' .config/qkey .config/qkey/config.toml
700 .config/qkey
600 .config/qkey/config.toml

$ qkey config init
--- exit 2
error: cannot write the configuration file [DIR]/.config/qkey/config.toml
  caused by: File exists (os error 17)
hint: qkey never overwrites it; `qkey config init --file -` prints the template

$ qkey config init --output json
--- exit 2
{"error":{"kind":"usage","message":"cannot write the configuration file [DIR]/.config/qkey/config.toml","causes":["File exists (os error 17)"],"hint":"qkey never overwrites it; `qkey config init --file -` prints the template","exit_code":2}}

$ qkey config init --file sub/folder/other.toml --output json
{"action":"config init","file":"sub/folder/other.toml"}

$ qkey config init --file sub/folder/other.toml
--- exit 2
error: cannot write the configuration file sub/folder/other.toml
  caused by: File exists (os error 17)
hint: qkey never overwrites it; `qkey config init --file -` prints the template

$ qkey config init --config third.toml
Wrote third.toml, a template with everything commented out; edit it next.

$ QKEY_CONFIG=fourth.toml qkey config init
Wrote fourth.toml, a template with everything commented out; edit it next.

$ qkey config init --file alice.pem/config.toml
--- exit 2
error: cannot write the configuration file alice.pem/config.toml
  caused by: File exists (os error 17)
hint: qkey never overwrites it; `qkey config init --file -` prints the template

$ ln -s nowhere dangling; qkey config init --file dangling
--- exit 2
error: cannot write the configuration file dangling
  caused by: File exists (os error 17)
hint: qkey never overwrites it; `qkey config init --file -` prints the template

$ qkey config show | head -1
Configuration file: [DIR]/.config/qkey/config.toml

$ env -u HOME XDG_CONFIG_HOME=$PWD/xdg qkey config init
Wrote [DIR]/xdg/qkey/config.toml, a template with everything commented out; edit it next.


"#]].raw()
    );
    assert!(
        fs::read_to_string(qkey.path("alice.pem"))
            .unwrap()
            .starts_with("-----BEGIN")
    );
}

#[test]
fn the_commented_file_is_shown_on_stdout_and_is_valid() {
    let qkey = Qkey::new();
    let template = prints(&qkey, "qkey config init --file -");
    prints(&qkey, "qkey config init");
    let path = qkey.path(".config/qkey/config.toml");
    assert_eq!(fs::read_to_string(&path).unwrap(), template);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_data_eq!(
        template.as_str(),
        str![[r##"
# Configuration of qkey. A flag overrides an environment variable (QKEY_HOST, …), which overrides
# this file; `qkey config show` lists the settings in force and where they come from.

# The cluster to use without --cluster and --host.
# default-cluster = "prod"

# [clusters.prod]
# host = "qumulo.example.com"
# port = 8000
# credentials-store = "~/.config/qumulo/credentials/prod"   # as `qq --credentials-store`
# qq = "/opt/qumulo/qq"                                     # the qq program for this cluster
# via = "rest"                                              # use the REST API instead of qq
# ca-file = "prod-ca.pem"                                   # trusted CAs, or the cluster's own certificate (rest)
# tls-fingerprint = "sha256:0000000000000000000000000000000000000000000000000000000000000000"  # or: trust only this certificate (rest)
# timeout = 30                                              # seconds for each call

# `qkey unlock` and `qkey replace` find the right one of these keys by its public key.
# Relative paths start from this file's folder.
# [keys.lock-2026]
# source = "~/keys/lock-2026.pem?passphrase-command=pass%20show%20qumulo"

# [defaults]
# qq = "qq"
# via = "qq"           # or "rest"
# timeout = 30
# output = "text"      # or "json"
# color = "auto"       # or "always", "never"
# no-input = false     # true: never prompt

"##]]
    );
    // Without its comment signs every key in it is one that there is. Of two, one excludes the other.
    for excluded in ["ca-file", "tls-fingerprint"] {
        let uncommented: String = template
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .filter(|line| !line.starts_with(excluded))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&path, uncommented).unwrap();
        prints(&qkey, "qkey config show");
    }
}

#[test]
fn a_broken_file_stops_everything_but_a_new_one() {
    let qkey = Qkey::new();
    qkey.configure("nonsense\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey alice.pem",
                "qkey pubkey alice.pem --output json",
                "qkey config init --file new.toml",
                "qkey config init --file - | head -1",
                "qkey pubkey alice.pem --config new.toml --format base64",
                "qkey --version >/dev/null",
            ]
        ),
        str![[r#"
$ qkey pubkey alice.pem
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: key with no value, expected `=`
hint: `qkey config init --file -` lists every key

$ qkey pubkey alice.pem --output json
--- exit 2
{"error":{"kind":"usage","message":"[DIR]/.config/qkey/config.toml:1: key with no value, expected `=`","causes":[],"hint":"`qkey config init --file -` lists every key","exit_code":2}}

$ qkey config init --file new.toml
Wrote new.toml, a template with everything commented out; edit it next.

$ qkey config init --file - | head -1
# Configuration of qkey. A flag overrides an environment variable (QKEY_HOST, …), which overrides

$ qkey pubkey alice.pem --config new.toml --format base64
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==

$ qkey --version >/dev/null


"#]].raw()
    );
}

#[test]
fn a_configured_name_is_a_key_source_with_paths_based_on_the_file() {
    let qkey = Qkey::new();
    qkey.write("etc/keys/alice.pem", crate::support::qkey::ALICE);
    prints(
        &qkey,
        "openssl pkcs8 -topk8 -v2 aes-256-cbc -in bob.pem -passout pass:sesame -out etc/keys/bob.pem
         chmod 600 etc/keys/bob.pem",
    );
    qkey.write("etc/keys/bob.pass", "sesame\n");
    qkey.write("home.pass", "sesame\n");
    qkey.write(
        "etc/qkey.toml",
        r#"
[keys.relative]
source = "keys/alice.pem"
[keys.uri]
source = "file:keys/alice.pem"
[keys.home]
source = "~/carol.pem"
[keys.absolute]
source = "/no/such/key.pem"
[keys.with-passphrase]
source = "keys/bob.pem?passphrase-file=keys/bob.pass"
[keys.with-passphrase-at-home]
source = "keys/bob.pem?passphrase-file=~/home.pass"
[keys."carol.pem"]
source = "keys/alice.pem"
[keys.stdin]
source = "-"
[keys.two words]
"#
        .replace(
            "[keys.two words]\n",
            "[keys.\"two words\"]\nsource = \"keys/alice.pem\"\n",
        ),
    );
    let fingerprint = |key: &str| {
        let line =
            format!("cd etc; qkey --config qkey.toml pubkey '{key}' --output json < ../bob.pem");
        let run = shell::run(&qkey, &line);
        match run.code {
            0 => run.json()["fingerprint"].as_str().unwrap()[..15].to_owned(),
            _ => run.stderr,
        }
    };
    let mut text = String::new();
    for key in [
        "relative",
        "uri",
        "home",
        "absolute",
        "with-passphrase",
        "with-passphrase-at-home",
        "carol.pem",
        "./keys/alice.pem",
        "two words",
        "stdin",
        "relativ",
    ] {
        text += &format!("{key}: {}\n", fingerprint(key));
    }
    assert_data_eq!(text, str![[r#"
relative: SHA256:qDNOdPfn
uri: SHA256:qDNOdPfn
home: SHA256:JSkAIR0a
absolute: {"error":{"kind":"key","message":"key \"absolute\": cannot read the key file /no/such/key.pem","causes":["No such file or directory (os error 2)"],"hint":"check the path","exit_code":3}}

with-passphrase: SHA256:Bigzvx05
with-passphrase-at-home: SHA256:Bigzvx05
carol.pem: SHA256:qDNOdPfn
./keys/alice.pem: SHA256:qDNOdPfn
two words: SHA256:qDNOdPfn
stdin: SHA256:Bigzvx05
relativ: {"error":{"kind":"key","message":"cannot read the key file relativ","causes":["No such file or directory (os error 2)"],"hint":"check the path","exit_code":3}}


"#]].raw());
    // From elsewhere it is the same.
    let from_elsewhere = prints(&qkey, "qkey --config etc/qkey.toml pubkey relative");
    assert_eq!(from_elsewhere, prints(&qkey, "qkey pubkey alice.pem"));
}

#[test]
fn a_configured_name_goes_before_a_file_of_that_name() {
    let qkey = Qkey::new();
    qkey.configure("[keys.\"bob.pem\"]\nsource = \"~/alice.pem\"\n");
    assert_eq!(
        prints(&qkey, "qkey pubkey bob.pem"),
        prints(&qkey, "openssl pkey -in alice.pem -pubout")
    );
    assert_eq!(
        prints(&qkey, "qkey pubkey ./bob.pem"),
        prints(&qkey, "openssl pkey -in bob.pem -pubout")
    );
}

#[test]
fn an_error_names_a_configured_key_and_its_source() {
    let qkey = Qkey::new();
    qkey.configure("[keys.vault]\nsource = \"missing.pem\"\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey vault",
                "qkey sign --key vault x",
                "qkey generate vault --output json | grep -o '\"source\":[^,]*'"
            ]
        ),
        str![[r#"
$ qkey pubkey vault
--- exit 3
error: key "vault": cannot read the key file [DIR]/.config/qkey/missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path

$ qkey sign --key vault x
--- exit 3
error: key "vault": cannot read the key file [DIR]/.config/qkey/missing.pem
  caused by: No such file or directory (os error 2)
hint: check the path

$ qkey generate vault --output json | grep -o '"source":[^,]*'
"source":"vault"


"#]]
        .raw()
    );
    assert!(qkey.path(".config/qkey/missing.pem").exists());
}

/// A cluster whose key `lock` is Alice's and locks snapshot 1.
fn with_locked_snapshot() -> (Mock, Qkey) {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let id = mock.add_key(
        "lock",
        "of Alice",
        &public_key_base64(&qkey.path("alice.pem")),
    );
    mock.add_key("spare", "", &public_key_base64(&qkey.path("carol.pem")));
    mock.set_snapshot_field(1, "lock_key", &id);
    (mock, qkey)
}

#[test]
fn without_a_key_on_the_command_line_the_configured_one_that_matches_is_taken() {
    let (mock, qkey) = with_locked_snapshot();
    qkey.configure("[keys.a-bob]\nsource = \"~/bob.pem\"\n[keys.z-alice]\nsource = \"~/alice.pem\"\n[keys.broken]\nsource = \"none.pem\"\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey keys list",
                "qkey keys show lock",
                "qkey unlock --id 1",
                "qkey replace -k lock --new-key a-bob",
                "qkey keys list",
            ]
        ),
        str![[r#"
$ qkey keys list
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock   enabled  SHA256:qDNOdPfn/SvG  z-alice         of Alice
2   spare  enabled  SHA256:JSkAIR0avXSX  -
--- exit 0
warning: skipped broken (none.pem): key "broken": cannot read the key file [DIR]/.config/qkey/none.pem: No such file or directory (os error 2)

$ qkey keys show lock
id              1
name            lock
comment         of Alice
state           enabled
fingerprint     SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
public key      MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==
configured key  z-alice
--- exit 0
warning: skipped broken (none.pem): key "broken": cannot read the key file [DIR]/.config/qkey/none.pem: No such file or directory (os error 2)

$ qkey unlock --id 1
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock").

$ qkey replace -k lock --new-key a-bob
Replaced key 1 ("lock").
  was SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
  now SHA256:Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s

$ qkey keys list
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock   enabled  SHA256:Bigzvx05JkuL  a-bob           of Alice
2   spare  enabled  SHA256:JSkAIR0avXSX  -
--- exit 0
warning: skipped broken (none.pem): key "broken": cannot read the key file [DIR]/.config/qkey/none.pem: No such file or directory (os error 2)


"#]].raw()
    );
    assert_eq!(mock.lock_key(1), None);
    assert_eq!(
        mock.public_key("1"),
        public_key_base64(&qkey.path("bob.pem"))
    );
}

#[test]
fn without_a_key_anywhere_one_is_asked_for() {
    let (mock, qkey) = with_locked_snapshot();
    assert_data_eq!(
        transcript(&qkey, ["qkey unlock --id 1", "qkey replace -k lock --new-key bob.pem", "qkey unlock --id 1 --output json"]),
        str![[r#"
$ qkey unlock --id 1
--- exit 2
error: no key given: --key is missing
hint: give --key SOURCE, or add your keys to the configuration file (`qkey config init`)

$ qkey replace -k lock --new-key bob.pem
--- exit 2
error: no key given: --old-key is missing
hint: give --old-key SOURCE, or add your keys to the configuration file (`qkey config init`)

$ qkey unlock --id 1 --output json
--- exit 2
{"error":{"kind":"usage","message":"no key given: --key is missing","causes":[],"hint":"give --key SOURCE, or add your keys to the configuration file (`qkey config init`)","exit_code":2}}


"#]].raw()
    );
    assert!(mock.calls().is_empty(), "{:?}", mock.calls());
}

#[test]
fn configured_keys_that_do_not_match_are_listed() {
    let (mock, qkey) = with_locked_snapshot();
    qkey.configure("[keys.bob]\nsource = \"~/bob.pem\"\n[keys.carol]\nsource = \"~/carol.pem\"\n[keys.gone]\nsource = \"gone.pem\"\n");
    assert_data_eq!(
        transcript(&qkey, ["qkey unlock --id 1", "qkey unlock --id 1 --output json", "qkey unlock --id 1 --key bob"]),
        str![[r#"
$ qkey unlock --id 1
--- exit 4
error: none of these keys matches key 1 ("lock"): bob (~/bob.pem) (SHA256:Bigzvx05JkuL), carol (~/carol.pem) (SHA256:JSkAIR0avXSX), gone (gone.pem) (No such file or directory (os error 2))
hint: nothing was sent; you need the private key for SHA256:qDNOdPfn/SvG

$ qkey unlock --id 1 --output json
--- exit 4
{"error":{"kind":"mismatch","message":"none of these keys matches key 1 (\"lock\"): bob (~/bob.pem) (SHA256:Bigzvx05JkuL), carol (~/carol.pem) (SHA256:JSkAIR0avXSX), gone (gone.pem) (No such file or directory (os error 2))","causes":[],"hint":"nothing was sent; you need the private key for SHA256:qDNOdPfn/SvG","exit_code":4}}

$ qkey unlock --id 1 --key bob
--- exit 4
error: bob (~/bob.pem) (SHA256:Bigzvx05JkuL) does not match key 1 ("lock")
hint: nothing was sent; you need the private key for SHA256:qDNOdPfn/SvG


"#]].raw()
    );
    assert_eq!(mock.lock_key(1).as_deref(), Some("1"));
}

#[test]
fn a_cluster_of_the_file_is_the_one_that_is_called() {
    let mock = Mock::new();
    let qkey = Qkey::new().env("QQ_MOCK_STATE", mock.state().to_str().unwrap());
    let program = mock.program();
    qkey.configure(&format!(
        "default-cluster = \"prod\"\n[clusters.prod]\nhost = \"prod.example.com\"\nport = 9000\ncredentials-store = \"~/creds\"\nqq = {:?}\n",
        program.to_str().unwrap()
    ));
    prints(&qkey, "qkey keys list");
    let store = format!("--credentials-store={}", qkey.path("creds").display());
    let expected = [
        "--host=prod.example.com",
        "--port=9000",
        &store,
        "fs_security_list_keys",
        "--json",
    ];
    assert_eq!(mock.calls(), [expected.map(str::to_owned)]);
}

#[test]
fn output_and_color_of_the_file_are_kept_to() {
    let qkey = Qkey::new();
    qkey.configure("[defaults]\noutput = \"json\"\ncolor = \"always\"\n");
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey pubkey none.pem",
                "qkey pubkey none.pem --output text 2>&1 | tr '\\033' '^'",
                "echo x | qkey sign --key alice.pem",
                "qkey config show --cluster none",
            ]
        ),
        str![[r#"
$ qkey pubkey none.pem
--- exit 3
{"error":{"kind":"key","message":"cannot read the key file none.pem","causes":["No such file or directory (os error 2)"],"hint":"check the path","exit_code":3}}

$ qkey pubkey none.pem --output text 2>&1 | tr '\033' '^'
^[1m^[31merror:^[0m cannot read the key file none.pem
  caused by: No such file or directory (os error 2)
^[1m^[36mhint:^[0m check the path

$ echo x | qkey sign --key alice.pem
{"public_key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgKmJRFWtWTEHhBTiC5rI1rbBJlXJqTNGHl4O+YRUke1drezNEidIVqu/UMnMs+81HL8VwIyyeeCwHkLLEK2aaQ==","fingerprint":"SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4","signature":"MEUCIA2xK28FEiFK09GQV6qFgwnUn2rM8EcNh0T+7i0ko5/zAiEA37jZjoRe9TFufSUxigTHRFNeqEQeOia/sODuinqWCQs=","signature_hex":"304502200db12b6f0512214ad3d19057aa858309d49f6accf0470d8744feee2d24a39ff3022100dfb8d98e845ef5316e7d25318a04c744535ea8441e3a26bfb0e0ee8a7a96090b"}
--- exit 0
{"log":{"level":"warning","message":"the trailing newline was signed too; the cluster will reject this (use `jq -j`)"}}

$ qkey config show --cluster none
--- exit 2
error: no cluster "none" in the configuration file
hint: it has no clusters; `qkey config init --file -` shows how to add them


"#]].raw()
    );
}

#[test]
fn a_cluster_that_was_typed_is_not_at_the_address_that_the_environment_names() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock)
        .env("QKEY_PORT", "9999")
        .env("QKEY_CREDENTIALS_STORE", "/credentials/of/the/environment");
    qkey.configure(
        "[clusters.prod]\nhost = \"prod.example.com\"\nport = 9000\ncredentials-store = \"~/creds\"\n\
         [clusters.bare]\nhost = \"bare.example.com\"\n",
    );
    let called = |line: &str| {
        mock.forget_calls();
        prints(&qkey, line);
        let calls = mock.calls().concat().join(" ");
        calls.replace(qkey.path("").to_str().unwrap(), "[DIR]/")
    };
    let said = [
        "qkey keys --cluster prod",
        "qkey keys --cluster bare",
        "qkey keys --cluster prod --port 7000",
        "QKEY_CLUSTER=prod qkey keys",
        "QKEY_CLUSTER=prod qkey keys --host other.example.com",
        "qkey keys --host other.example.com",
    ]
    .map(|line| format!("{line}\n  {}\n", called(line)));
    assert_data_eq!(said.concat(), str![[r#"
qkey keys --cluster prod
  --host=prod.example.com --port=9000 --credentials-store=[DIR]/creds fs_security_list_keys --json
qkey keys --cluster bare
  --host=bare.example.com --port=8000 fs_security_list_keys --json
qkey keys --cluster prod --port 7000
  --host=prod.example.com --port=7000 --credentials-store=[DIR]/creds fs_security_list_keys --json
QKEY_CLUSTER=prod qkey keys
  --host=cluster --port=9999 --credentials-store=/credentials/of/the/environment fs_security_list_keys --json
QKEY_CLUSTER=prod qkey keys --host other.example.com
  --host=other.example.com --port=9999 --credentials-store=/credentials/of/the/environment fs_security_list_keys --json
qkey keys --host other.example.com
  --host=other.example.com --port=9999 --credentials-store=/credentials/of/the/environment fs_security_list_keys --json

"#]].raw());
    assert_data_eq!(
        narrow(&transcript(
            &qkey,
            [
                "qkey config show --cluster prod | sed -n '3,7p'",
                "qkey config show --cluster bare | sed -n '3,7p'",
                "QKEY_CLUSTER=prod qkey config show | sed -n '3,7p'",
                "QKEY_CLUSTER=prod qkey config show --host other.example.com | sed -n '3,7p'",
                "QKEY_CLUSTER=prod qkey config show --cluster bare | sed -n '3,7p'",
            ]
        )),
        str![[r#"
$ qkey config show --cluster prod | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  prod  flag, --cluster
host  prod.example.com  file, clusters.prod.host
port  9000  file, clusters.prod.port
credentials-store  [DIR]/creds  file, clusters.prod.credentials-store

$ qkey config show --cluster bare | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  bare  flag, --cluster
host  bare.example.com  file, clusters.bare.host
port  8000  default
credentials-store  -  default

$ QKEY_CLUSTER=prod qkey config show | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  prod  environment, QKEY_CLUSTER
host  cluster  environment, QKEY_HOST
port  [PORT]  environment, QKEY_PORT
credentials-store  [CREDENTIALS]  environment, QKEY_CREDENTIALS_STORE

$ QKEY_CLUSTER=prod qkey config show --host other.example.com | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  -  default
host  other.example.com  flag, --host
port  [PORT]  environment, QKEY_PORT
credentials-store  [CREDENTIALS]  environment, QKEY_CREDENTIALS_STORE

$ QKEY_CLUSTER=prod qkey config show --cluster bare | sed -n '3,7p'
SETTING  VALUE  FROM
cluster  bare  flag, --cluster
host  bare.example.com  file, clusters.bare.host
port  8000  default
credentials-store  -  default


"#]]
        .raw()
    );
}

#[test]
fn a_file_that_is_larger_than_any_configuration_is_an_error() {
    let qkey = Qkey::new();
    let limit = 1 << 20;
    qkey.write("full.toml", "#".repeat(limit));
    qkey.write("over.toml", "#".repeat(limit + 1));
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "qkey config show --config full.toml | head -1",
                "qkey config show --config over.toml",
                "qkey config show --config /dev/zero",
            ]
        ),
        str![[r#"
$ qkey config show --config full.toml | head -1
Configuration file: full.toml

$ qkey config show --config over.toml
--- exit 2
error: cannot read the configuration file over.toml
  caused by: longer than 1048576 bytes
hint: it must be a readable UTF-8 file

$ qkey config show --config /dev/zero
--- exit 2
error: cannot read the configuration file /dev/zero
  caused by: longer than 1048576 bytes
hint: it must be a readable UTF-8 file


"#]]
        .raw()
    );
}

#[test]
fn a_configuration_file_that_does_not_fit_is_not_begun() {
    let qkey = Qkey::new();
    // A file that may not grow fails as a full disk does.
    assert_data_eq!(
        transcript(
            &qkey,
            [
                "trap '' XFSZ; ulimit -f 0; qkey config init --file new.toml",
                "ls -A",
                "qkey config init --file new.toml",
            ]
        ),
        str![[r#"
$ trap '' XFSZ; ulimit -f 0; qkey config init --file new.toml
--- exit 2
error: cannot write the configuration file new.toml
  caused by: File too large (os error 27)
hint: choose another path with --file PATH

$ ls -A
alice.pem
bob.pem
carol.pem

$ qkey config init --file new.toml
Wrote new.toml, a template with everything commented out; edit it next.


"#]]
        .raw()
    );
}

#[test]
fn a_configuration_file_that_others_can_change_is_warned_of_and_used() {
    let qkey = Qkey::new();
    let file = qkey.configure("[defaults]\ncolor = \"never\"\n");
    let folder = file.parent().unwrap();
    let show = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let run = qkey.run(["config", "show"]);
        assert_eq!(run.code, 0);
        run.stderr
    };
    for mode in [0o600, 0o644, 0o755] {
        assert_eq!(show(&file, mode), "", "{mode:o}");
    }
    let mut text = String::new();
    for mode in [0o664, 0o602] {
        text.push_str(&show(&file, mode));
    }
    assert_eq!(show(&file, 0o600), "");
    text.push_str(&show(folder, 0o775));
    assert_eq!(show(folder, 0o1777), "");
    assert_data_eq!(text, str![[r#"
warning: [DIR]/.config/qkey/config.toml can be written by others (mode 0664); fix with: chmod go-w [DIR]/.config/qkey/config.toml
warning: [DIR]/.config/qkey/config.toml can be written by others (mode 0602); fix with: chmod go-w [DIR]/.config/qkey/config.toml
warning: [DIR]/.config/qkey/config.toml can be replaced: [DIR]/.config/qkey can be written by others (mode 0775); fix with: chmod go-w [DIR]/.config/qkey

"#]].raw());

    // Only root can give a file away; for others, it stays theirs.
    let expected = match chown(&file, Some(1), None) {
        Ok(()) => {
            "warning: [DIR]/.config/qkey/config.toml belongs to another user (uid 1), who can change it; make a copy that you own, and use that\n"
        }
        Err(_) => "",
    };
    assert_eq!(show(folder, 0o700), expected);
}

#[test]
fn no_mistake_in_the_file_echoes_a_secret() {
    let qkey = Qkey::new();
    const SOURCE: &str = "pkcs11:token=T;object=o?pin-value=8361 8361&module-path=/m";
    const COMMAND: &str = "k.pem?passphrase-command=echo 8361 8361";
    for source in [SOURCE, COMMAND] {
        for text in [
            "[keys]\nlock = \"@\"\n",
            "keys = \"@\"\n",
            "[keys.lock]\nsource = [\"@\"]\n",
            "[keys.lock]\nsource = { uri = \"@\" }\n",
            "[keys.lock]\nsauce = \"@\"\n",
            "[keys.lock]\nsource = @\n",
            "[keys.lock]\nsource = \"@\nnext = 1\n",
            "[keys.lock]\nsource = '@\"\n",
            "[keys.lock]\nsource = \"\\q@\"\n",
            "[keys.lock]\nsource = \"@\" \"@\"\n",
            "[keys.lock]\nsource \"@\"\n",
            "[keys.lock]\nsource = \"@\"\nsource = \"@\"\n",
            "[keys.lock]\nsource = \"@\"\n\"@\" = 1\n",
            "[keys.\"@\"]\nsource = \"k\"\n",
            "[keys.\"@\"]\nsource = \"k\"\n[keys.\"@\"]\nsource = \"k\"\n",
            "[\"@\"]\n",
            "[@]\n",
            "@\n",
            "default-cluster = \"@\"\n",
            "[defaults]\nvia = \"@\"\n",
            "[defaults]\ntimeout = \"@\"\n",
            "[defaults]\nno-input = \"@\"\n",
            "[clusters.c]\nport = \"@\"\n",
            "[clusters.c]\ntls-fingerprint = \"@\"\n",
            "[clusters]\nc = \"@\"\n",
            "clusters = [\"@\"]\n",
        ] {
            qkey.configure(&text.replace('@', source));
            for args in [
                &["config", "show"][..],
                &["keys", "--output=json"],
                &["pubkey", "lock", "-vv", "--no-input"],
            ] {
                let run = qkey.run(args);
                assert!(run.code != 0, "{text}: {run:?}");
                assert!(!run.stdout.contains("8361"), "{text}: {run:?}");
                assert!(!run.stderr.contains("8361"), "{text}: {run:?}");
            }
        }
    }
}
