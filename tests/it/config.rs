//! The configuration file, the environment, and flags: what is in force, and why.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use crate::support::{
    key_source::encrypt,
    mock::Mock,
    qkey::{ALICE, ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey},
    session::{assert_cases, assert_session},
    shell::{self, prints},
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

/// A table with its columns two blanks apart, whatever the length of the temporary folder.
fn narrow(text: &str) -> String {
    let mut text = text.to_owned();
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    text
}

#[test]
fn show_lists_settings_and_their_origins() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
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

"#]]
    );
    qkey.configure(FULL);
    assert_session!(
        qkey,
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
$ qkey config show --cluster lab
Configuration file: [DIR]/.config/qkey/config.toml

SETTING  VALUE  FROM
cluster  lab  flag, --cluster
host  lab.example.com  file, clusters.lab.host
port  8000  default
credentials-store  -  default
token  -  default
trust  system CAs  default
qq  /opt/qumulo/qq  file, defaults.qq
via  qq  file, defaults.via
timeout  12  file, defaults.timeout
output  text  file, defaults.output
color  never  file, defaults.color
no-input  true  file, defaults.no-input

KEY  SOURCE
alice  ~/alice.pem
vault-2026  keys/vault.pem?passphrase-env=VAULT
$ QKEY_CLUSTER=lab qkey config show | sed -n '4,5p'
cluster  lab  environment, QKEY_CLUSTER
host  lab.example.com  file, clusters.lab.host

"#]],
        narrow
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
fn flag_overrides_environment_which_overrides_file() {
    let mut text = String::new();
    for (name, in_environment, as_flag) in SETTINGS {
        let variable = format!("QKEY_{}", name.replace('-', "_").to_uppercase());
        let flag = match as_flag {
            "" => format!("--{name}"),
            value => format!("--{name}={value}"),
        };
        let qkey = Qkey::new();
        qkey.configure(FULL);
        for (variable, flag) in [("UNUSED", ""), (&variable, ""), (&variable, &flag)] {
            let mut command = qkey.command(["config", "show"]);
            command.env(variable, in_environment);
            command.args(Some(flag).filter(|flag| !flag.is_empty()));
            let output = command.output().unwrap();
            let shown = qkey.taken(&output).stdout;
            text += &if let Ok(shown) = serde_json::from_str::<serde_json::Value>(&shown) {
                format!("{name}  {}\n", shown["settings"][name])
            } else {
                let line = shown.lines().find(|line| line.starts_with(name));
                narrow(line.unwrap()) + "\n"
            };
        }
    }
    assert_data_eq!(
        text,
        str![[r#"
cluster  prod  file, default-cluster
cluster  prod  environment, QKEY_CLUSTER
cluster  lab  flag, --cluster
host  prod.example.com  file, clusters.prod.host
host  env.example.com  environment, QKEY_HOST
host  flag.example.com  flag, --host
port  8001  file, clusters.prod.port
port  8002  environment, QKEY_PORT
port  8003  flag, --port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store
credentials-store  /env/credentials  environment, QKEY_CREDENTIALS_STORE
credentials-store  /flag/credentials  flag, --credentials-store
qq  [DIR]/bin/qq  file, clusters.prod.qq
qq  /env/qq  environment, QKEY_QQ
qq  /flag/qq  flag, --qq
via  qq  file, clusters.prod.via
via  qq  environment, QKEY_VIA
via  qq  flag, --via
timeout  11  file, clusters.prod.timeout
timeout  21  environment, QKEY_TIMEOUT
timeout  22  flag, --timeout
output  text  file, defaults.output
output  text  environment, QKEY_OUTPUT
output  {"value":"json","origin":"flag, --output"}
color  never  file, defaults.color
color  always  environment, QKEY_COLOR
color  auto  flag, --color
no-input  true  file, defaults.no-input
no-input  true  environment, QKEY_NO_INPUT
no-input  true  flag, --no-input

"#]]
        .raw()
    );
}

/// Neither port nor credentials of the default cluster apply to a host that the user names, unless
/// the user names the cluster, too.
#[test]
fn named_host_is_another_cluster() {
    let qkey = Qkey::new();
    qkey.configure(FULL);
    assert_session!(
        qkey,
        str![[r#"
$ qkey config show --host other.example.com | sed -n '4,7p'
$ QKEY_CLUSTER=prod qkey config show --host other.example.com | sed -n '4,7p'
cluster  -  default
host  other.example.com  flag, --host
port  8000  default
credentials-store  -  default
$ QKEY_HOST=other.example.com qkey config show | sed -n '4,7p'
cluster  -  default
host  other.example.com  environment, QKEY_HOST
port  8000  default
credentials-store  -  default
$ qkey config show --host other.example.com --cluster prod | sed -n '4,7p'
cluster  prod  flag, --cluster
host  other.example.com  flag, --host
port  8001  file, clusters.prod.port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store
$ QKEY_HOST=other.example.com qkey config show --cluster prod | sed -n '4,7p'
cluster  prod  flag, --cluster
host  prod.example.com  file, clusters.prod.host
port  8001  file, clusters.prod.port
credentials-store  [DIR]/credentials/prod  file, clusters.prod.credentials-store

"#]],
        narrow
    );
}

#[test]
fn every_mistake_is_named_with_its_file_and_line() {
    assert_cases!(
        str![[r#"
==== defualt-cluster = "prod"
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `defualt-cluster`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `default-cluster`?
==== default-cluster = 7
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: invalid type: integer `7`, expected a string
hint: `qkey config init --file -` lists every key
==== default-cluster = "prud"\n\n[clusters.prod]\nhost = "a"
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: default-cluster is "prud", but that cluster is missing
hint: did you mean "prod"?
==== default-cluster = "prod"
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: default-cluster is "prod", but that cluster is missing
hint: it has no clusters; `qkey config init --file -` shows how to add them
==== [cluster.prod]\nhost = "a"
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `cluster`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `clusters`?
==== [clusters.prod]\nhots = "a"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `hots`, expected one of `host`, `port`, `credentials-store`, `ca-file`, `tls-fingerprint`, `qq`, `via`, `timeout`
hint: did you mean `host`?
==== [clusters.prod]\nhost = "a"\nhost = "b"
--- exit 2
error: [DIR]/.config/qkey/config.toml:3: duplicate key
hint: `qkey config init --file -` lists every key
==== [clusters.prod]\nport = 80000
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `80000`, expected a number up to 65535
==== [clusters.prod]\nport = "8000"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: expected a number up to 65535, found a string
==== [clusters.prod]\nhost = ""\n[clusters.lab]\nvia = "soap"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:4: unknown variant `soap`, expected `qq` or `rest`
==== [clusters.prod]\ntimeout = 0
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `0`, expected a number of at least 1
==== [clusters.prod]\ntimeout = -1
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `-1`, expected a number of at least 1
==== [defaults]\ntimeout = 0
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: invalid value: integer `0`, expected a number of at least 1
==== [defaults]\noutput = "yaml"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: unknown variant `yaml`, expected `text` or `json`
==== [defaults]\ncolor = "sometimes"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: unknown variant `sometimes`, expected one of `auto`, `always`, `never`
==== [defaults]\nno-input = "yes"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: expected a boolean, found a string
==== [defaults]\nno_input = true
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `no_input`, expected one of `qq`, `via`, `timeout`, `output`, `color`, `no-input`
hint: did you mean `no-input`?
==== [default]\ntimeout = 1
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: unknown field `default`, expected one of `default-cluster`, `defaults`, `clusters`, `keys`
hint: did you mean `defaults`?
==== [keys.alice]
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: missing field `source`
hint: `qkey config init --file -` lists every key
==== [keys.alice]\nsource = ""
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "" is not a key source: empty
hint: a key source is one of: [TABLE] written ./PATH
==== [keys.alice]\nsource = "gpg:alice"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: "gpg:alice" is not a key source: unknown scheme "gpg"
==== [keys.alice]\nsource = "a.pem?passphrase-evn=X"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "a.pem?passphrase-evn=…" is not a key source: unknown attribute "passphrase-evn"
hint: did you mean "passphrase-env"? file takes passphrase-env, passphrase-file, passphrase-fd, passphrase-command; in a name, write `?` as %3F: file:…%3F…
==== [keys.alice]\nsource = "a.pem?passphrase-fd=x"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "a.pem?passphrase-fd=x" is not a key source: passphrase-fd is not a file descriptor
hint: use a number, as in passphrase-fd=3
==== [keys.alice]\nsuorce = "a.pem"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: unknown field `suorce`, expected `source`
hint: did you mean `source`?
==== [keys]\nalice = "a.pem"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: expected a table, found a string
hint: `qkey config init --file -` lists every key
==== [keys."a/b"]\nsource = "a.pem"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "a/b" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`
==== [keys."a:b"]\nsource = "a.pem"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: "a:b" is not a valid key name
==== [keys."a?b"]\nsource = "a.pem"
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:2: "a?…" is not a valid key name
==== [keys."-"]\nsource = "a.pem"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "-" is not a valid key name
hint: `-` means stdin; choose another name
==== [keys.""]\nsource = "a.pem"
--- exit 2
error: [DIR]/.config/qkey/config.toml:2: "" is not a valid key name
hint: a name must not be empty or contain `:`, `/` or `?`
==== host = "a
--- exit 2
error: [DIR]/.config/qkey/config.toml:1: invalid basic string, expected `"`
hint: `qkey config init --file -` lists every key
==== [clusters.prod
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:1: unclosed table, expected `]`
==== = 1
--- exit 2, hint as above
error: [DIR]/.config/qkey/config.toml:1: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`

"#]],
        |mistake| {
            let qkey = Qkey::new();
            qkey.configure(&format!("{}\n", mistake.replace("\\n", "\n")));
            shell::without_table(&qkey.run(["config", "show"]).transcript())
        }
    );
}

#[test]
fn unreadable_file_is_an_error() {
    let qkey = Qkey::new();
    let limit = 1 << 20;
    qkey.write("latin-1.toml", b"# caf\xe9\n");
    qkey.write("bom.toml", "\u{feff}[defaults]\ntimeout = 5\n");
    qkey.write("crlf.toml", "[defaults]\r\ntimeout = 5\r\n");
    qkey.write("full.toml", "#".repeat(limit));
    qkey.write("over.toml", "#".repeat(limit + 1));
    assert_session!(
        qkey,
        str![[r#"
$ qkey config show --config latin-1.toml
--- exit 2
error: cannot read the configuration file latin-1.toml
  caused by: invalid utf-8 sequence of 1 bytes from index 5
hint: it must be a readable UTF-8 file
$ qkey config show --config .
--- exit 2, hint as above
error: cannot read the configuration file .
  caused by: Is a directory (os error 21)
$ qkey config show --config over.toml
--- exit 2, hint as above
error: cannot read the configuration file over.toml
  caused by: longer than 1048576 bytes
$ qkey config show --config /dev/zero
--- exit 2, hint as above
error: cannot read the configuration file /dev/zero
  caused by: longer than 1048576 bytes
$ qkey config show --config missing.toml
$ QKEY_CONFIG=missing.toml qkey config show
$ qkey pubkey alice.pem --config missing.toml
--- exit 2
error: cannot read the configuration file missing.toml
  caused by: No such file or directory (os error 2)
hint: `qkey config init` creates one
$ qkey config show --config missing.toml --output json
--- exit 2
{"error":{"kind":"usage","message":"cannot read the configuration file missing.toml","causes":["No such file or directory (os error 2)"],"hint":"`qkey config init` creates one","exit_code":2}}
$ qkey config show --config bom.toml | grep timeout
$ qkey config show --config crlf.toml | grep timeout
timeout            5           file, defaults.timeout
$ qkey config show --config full.toml | head -1
Configuration file: full.toml
$ qkey config show --config /dev/null | head -1
Configuration file: /dev/null

"#]]
    );
}

#[test]
fn file_is_found_as_in_the_xdg_specification() {
    let qkey = Qkey::new();
    for file in [".config/qkey/config", "xdg/qkey/config", "named", "flag"] {
        qkey.write(&format!("{file}.toml"), "");
    }
    assert_session!(
        qkey,
        str![[r#"
$ qkey config show | head -1
$ XDG_CONFIG_HOME=xdg qkey config show | head -1
$ XDG_CONFIG_HOME=./xdg qkey config show | head -1
$ XDG_CONFIG_HOME= qkey config show | head -1
Configuration file: [DIR]/.config/qkey/config.toml
$ XDG_CONFIG_HOME=$PWD/xdg qkey config show | head -1
Configuration file: [DIR]/xdg/qkey/config.toml
$ XDG_CONFIG_HOME=$PWD/none qkey config show | head -1
Configuration file: none
$ QKEY_CONFIG=named.toml qkey config show | head -1
Configuration file: named.toml
$ QKEY_CONFIG=named.toml qkey config show --config flag.toml | head -1
$ QKEY_CONFIG=missing.toml qkey config show --config flag.toml | head -1
Configuration file: flag.toml

"#]]
    );
}

#[test]
fn unknown_clusters_and_invalid_values_are_errors() {
    let qkey = Qkey::new();
    qkey.configure(FULL);
    assert_session!(
        qkey,
        str![[r#"
$ qkey config show --cluster prod --config /dev/null
--- exit 2
error: no cluster "prod" in the configuration file
hint: it has no clusters; `qkey config init --file -` shows how to add them
$ qkey config show --cluster prdo
--- exit 2
error: no cluster "prdo" in the configuration file
hint: did you mean "prod"?
$ qkey config show --cluster nothing-like-it
--- exit 2
error: no cluster "nothing-like-it" in the configuration file
hint: it has these clusters: lab, prod
$ qkey config show --cluster ''
--- exit 2, hint as above
error: no cluster "" in the configuration file
$ QKEY_CLUSTER=PROD qkey config show --output json
--- exit 2
{"error":{"kind":"usage","message":"no cluster \"PROD\" in the configuration file","causes":[],"hint":"it has these clusters: lab, prod","exit_code":2}}
$ qkey config show --host ''
$ QKEY_HOST= qkey config show
--- exit 2
error: the host is empty
hint: give a host name or an address, or omit it on a cluster node
$ qkey config show --port 65536
--- exit 2
error: invalid value '65536' for '--port <PORT>': 65536 is not in 0..=65535

For more information, try '--help'.
$ QKEY_PORT= qkey config show
--- exit 2, hint as above
error: invalid value '' for '--port <PORT>': cannot parse integer from empty string
$ qkey config show --timeout 0
--- exit 2, hint as above
error: invalid value '0' for '--timeout <SECONDS>': 0 is not in 1..18446744073709551615
$ QKEY_TIMEOUT=soon qkey config show
--- exit 2, hint as above
error: invalid value 'soon' for '--timeout <SECONDS>': invalid digit found in string
$ qkey config show --via soap
--- exit 2, hint as above
error: invalid value 'soap' for '--via <TRANSPORT>'
  [possible values: qq, rest]
$ qkey config show --color sometimes
--- exit 2, hint as above
error: invalid value 'sometimes' for '--color <WHEN>'
  [possible values: auto, always, never]
$ qkey config show --output yaml
$ QKEY_OUTPUT=yaml qkey config show
--- exit 2, hint as above
error: invalid value 'yaml' for '--output <FORMAT>'
  [possible values: text, json]
$ qkey config show --port 0 | grep -o '^port *0'
port               0
$ qkey config show --timeout 18446744073709551615 | grep -o '^timeout *4294967295'
timeout            4294967295

"#]]
    );
}

#[test]
fn init_creates_a_private_file_and_never_overwrites_one() {
    let qkey = Qkey::new();
    assert_session!(
        qkey,
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
$ qkey config init --config third.toml
Wrote third.toml, a template with everything commented out; edit it next.
$ QKEY_CONFIG=fourth.toml qkey config init
Wrote fourth.toml, a template with everything commented out; edit it next.
$ qkey config init --file alice.pem/config.toml
--- exit 2, hint as above
error: cannot write the configuration file alice.pem/config.toml
  caused by: File exists (os error 17)
$ ln -s nowhere dangling; qkey config init --file dangling
--- exit 2, hint as above
error: cannot write the configuration file dangling
  caused by: File exists (os error 17)
$ env -u HOME XDG_CONFIG_HOME=$PWD/xdg qkey config init
Wrote [DIR]/xdg/qkey/config.toml, a template with everything commented out; edit it next.
$ trap '' XFSZ; ulimit -f 0; qkey config init --file new.toml
--- exit 2
error: cannot write the configuration file new.toml
  caused by: File too large (os error 27)
hint: choose another path with --file PATH
$ ls new.toml 2>/dev/null
--- exit 2
$ head -1 alice.pem
-----BEGIN PRIVATE KEY-----

"#]]
    );
}

#[test]
fn template_is_valid() {
    let qkey = Qkey::new();
    let template = prints(&qkey, "qkey config init --file -");
    prints(&qkey, "qkey config init");
    let path = qkey.path(".config/qkey/config.toml");
    assert_eq!(fs::read_to_string(&path).unwrap(), template);
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
    // Every key in it exists. Of these two, each excludes the other.
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
fn broken_file_stops_every_command_but_init_and_version() {
    let qkey = Qkey::new();
    qkey.configure("nonsense\n");
    assert_session!(
        qkey,
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
[ALICE]
$ qkey --version >/dev/null
--- exit 0

"#]]
    );
}

#[test]
fn configured_name_is_a_key_source_with_paths_relative_to_the_file() {
    let qkey = Qkey::new();
    qkey.write("etc/keys/alice.pem", ALICE);
    encrypt(&qkey, "bob.pem", "etc/keys/bob.pem", "sesame");
    qkey.write("etc/keys/bob.pass", "sesame\n");
    qkey.write("home.pass", "sesame\n");
    qkey.write(
        "etc/qkey.toml",
        r#"[keys]
relative.source = "keys/alice.pem"
uri.source = "file:keys/alice.pem"
home.source = "~/carol.pem"
absolute.source = "/no/such/key.pem"
with-passphrase.source = "keys/bob.pem?passphrase-file=keys/bob.pass"
with-passphrase-at-home.source = "keys/bob.pem?passphrase-file=~/home.pass"
"carol.pem".source = "keys/alice.pem"
"two words".source = "keys/alice.pem"
stdin.source = "-"
missing.source = "missing.pem"
"#,
    );
    let qkey = qkey.env("QKEY_CONFIG", "etc/qkey.toml");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey relative --format base64
$ cd etc; qkey pubkey relative --format base64 --config qkey.toml
$ qkey pubkey uri --format base64
$ qkey pubkey carol.pem --format base64
$ qkey pubkey 'two words' --format base64
[ALICE]
$ qkey pubkey ./carol.pem --format base64
$ qkey pubkey home --format base64
[CAROL]
$ qkey pubkey with-passphrase --format base64
$ qkey pubkey with-passphrase-at-home --format base64
$ qkey pubkey stdin --format base64 <bob.pem
[BOB]
$ qkey pubkey relativ
--- exit 3
error: "relativ" is neither a configured key nor a file
hint: did you mean "relative"? `qkey config` shows the keys
$ qkey pubkey absolute
--- exit 3
error: key "absolute": cannot read the key file /no/such/key.pem
  caused by: No such file or directory (os error 2)
hint: check the path
$ qkey pubkey missing
$ qkey sign --key missing x
--- exit 3, hint as above
error: key "missing": cannot read the key file etc/missing.pem
  caused by: No such file or directory (os error 2)
$ qkey generate missing --output json | grep -o '"source":[^,]*'
"source":"missing"
$ test -f etc/missing.pem
--- exit 0

"#]]
    );
}

/// A cluster whose key `lock` is Alice's and locks snapshot 1.
fn with_locked_snapshot() -> (Mock, Qkey) {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let id = mock.add_key("lock", "of Alice", ALICE_PUBLIC);
    mock.add_key("spare", "", CAROL_PUBLIC);
    mock.set_snapshot_field(1, "lock_key", &id);
    (mock, qkey)
}

#[test]
fn configured_key_that_matches_is_used() {
    let (mock, qkey) = with_locked_snapshot();
    assert_session!(
        qkey,
        str![[r#"
$ qkey unlock --id 1
--- exit 2
error: no key given: --key is missing
hint: give --key SOURCE, or add your keys to the configuration file (`qkey config init`)
$ qkey replace -k lock --new-key bob.pem
--- exit 2
error: no key given: --old-key is missing
hint: give --old-key SOURCE, or add your keys to the configuration file (`qkey config init`)

"#]]
    );
    assert!(mock.calls().is_empty(), "{:?}", mock.calls());
    qkey.configure("[keys]\nbob.source = '~/bob.pem'\ncarol.source = '~/carol.pem'\ngone.source = 'gone.pem'\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey unlock --id 1
--- exit 4
error: none of these keys matches key 1 ("lock"): bob (~/bob.pem) (SHA256:[BOB…]), carol (~/carol.pem) (SHA256:[CAROL…]), gone (gone.pem) (No such file or directory (os error 2))
hint: nothing was sent; you need the private key for SHA256:[ALICE…]
$ qkey unlock --id 1 --key bob
--- exit 4, hint as above
error: bob (~/bob.pem) (SHA256:[BOB…]) does not match key 1 ("lock")

"#]]
    );
    assert_eq!(mock.lock_key(1).as_deref(), Some("1"));
    qkey.configure("[keys]\na-bob.source = '~/bob.pem'\nz-alice.source = '~/alice.pem'\nbroken.source = 'none.pem'\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey keys list
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock   enabled  SHA256:[ALICE…]  z-alice         of Alice
2   spare  enabled  SHA256:[CAROL…]  -
--- exit 0
warning: skipped broken (none.pem): key "broken": cannot read the key file [DIR]/.config/qkey/none.pem: No such file or directory (os error 2)
$ qkey keys show lock
id              1
name            lock
comment         of Alice
state           enabled
fingerprint     SHA256:[ALICE]
public key      [ALICE]
configured key  z-alice
--- exit 0
warning: skipped broken (none.pem): key "broken": cannot read the key file [DIR]/.config/qkey/none.pem: No such file or directory (os error 2)
$ qkey unlock --id 1
Unlocked snapshot 1 ("1_before_upgrade") with key 1 ("lock").
$ qkey replace -k lock --new-key a-bob
Replaced key 1 ("lock").
  was SHA256:[ALICE]
  now SHA256:[BOB]
$ qkey keys list -q
ID  NAME   STATE    FINGERPRINT          CONFIGURED KEY  COMMENT
1   lock   enabled  SHA256:[BOB…]  a-bob           of Alice
2   spare  enabled  SHA256:[CAROL…]  -

"#]]
    );
    assert_eq!(mock.lock_key(1), None);
    assert_eq!(mock.public_key("1"), BOB_PUBLIC);
}

#[test]
fn output_and_color_of_the_file_apply() {
    let qkey = Qkey::new();
    qkey.configure("[defaults]\noutput = \"json\"\ncolor = \"always\"\n");
    assert_session!(
        qkey,
        str![[r#"
$ qkey pubkey none.pem
--- exit 3
{"error":{"kind":"key","message":"cannot read the key file none.pem","causes":["No such file or directory (os error 2)"],"hint":"check the path","exit_code":3}}
$ qkey pubkey none.pem --output text 2>&1 | tr '\033' '^'
^[1m^[31merror:^[0m cannot read the key file none.pem
  caused by: No such file or directory (os error 2)
^[1m^[36mhint:^[0m check the path
$ echo x | qkey sign --key alice.pem
{"public_key":"[ALICE]","fingerprint":"SHA256:[ALICE]","signature":"MEUCIA2xK28FEiFK09GQV6qFgwnUn2rM8EcNh0T+7i0ko5/zAiEA37jZjoRe9TFufSUxigTHRFNeqEQeOia/sODuinqWCQs=","signature_hex":"304502200db12b6f0512214ad3d19057aa858309d49f6accf0470d8744feee2d24a39ff3022100dfb8d98e845ef5316e7d25318a04c744535ea8441e3a26bfb0e0ee8a7a96090b"}
--- exit 0
{"log":{"level":"warning","message":"the trailing newline was signed too; the cluster will reject this (use `jq -j`)"}}
$ qkey config show --cluster none
--- exit 2
error: no cluster "none" in the configuration file
hint: it has no clusters; `qkey config init --file -` shows how to add them

"#]]
    );
}

#[test]
fn cluster_flag_overrides_address_in_environment() {
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
        "QKEY_CLUSTER=prod qkey keys --cluster bare",
        "QKEY_CLUSTER=prod qkey keys --host other.example.com",
        "qkey keys --host other.example.com",
        "env -u QKEY_HOST -u QKEY_PORT -u QKEY_CREDENTIALS_STORE QKEY_CLUSTER=prod qkey keys",
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
QKEY_CLUSTER=prod qkey keys --cluster bare
  --host=bare.example.com --port=8000 fs_security_list_keys --json
QKEY_CLUSTER=prod qkey keys --host other.example.com
  --host=other.example.com --port=9999 --credentials-store=/credentials/of/the/environment fs_security_list_keys --json
qkey keys --host other.example.com
  --host=other.example.com --port=9999 --credentials-store=/credentials/of/the/environment fs_security_list_keys --json
env -u QKEY_HOST -u QKEY_PORT -u QKEY_CREDENTIALS_STORE QKEY_CLUSTER=prod qkey keys
  --host=prod.example.com --port=9000 --credentials-store=[DIR]/creds fs_security_list_keys --json

"#]].raw());
    assert_session!(
        qkey,
        str![[r#"
$ QKEY_CLUSTER=prod qkey config show | sed -n '4,7p'
cluster  prod  environment, QKEY_CLUSTER
host  cluster  environment, QKEY_HOST
port  [PORT]  environment, QKEY_PORT
credentials-store  [CREDENTIALS]  environment, QKEY_CREDENTIALS_STORE
$ QKEY_CLUSTER=prod qkey config show --cluster bare | sed -n '4,7p'
cluster  bare  flag, --cluster
host  bare.example.com  file, clusters.bare.host
port  8000  default
credentials-store  -  default

"#]],
        narrow
    );
}

#[test]
fn file_that_others_can_change_is_a_warning() {
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
fn no_error_about_the_file_shows_a_secret() {
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
                &["pubkey", "lock", "-vv", "--no-input", "--output=json"],
            ] {
                let run = qkey.run(args);
                assert!(run.code != 0, "{text}: {run:?}");
                assert!(!run.stdout.contains("8361"), "{text}: {run:?}");
                assert!(!run.stderr.contains("8361"), "{text}: {run:?}");
            }
        }
    }
}
