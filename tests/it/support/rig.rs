//! Key sources of every kind, each set up so that the same tests can use it.

use std::{
    any::Any,
    fs,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;

use super::{
    aws::{moto, with_aws},
    azure::{Vault, with_az},
    fake_cloud_kms::{FakeCloudKms, RING},
    openbao::{address, with_bao},
    qkey::{Qkey, wait_until},
    shell::prints,
    swtpm::Swtpm,
};

/// Every kind of key source.
pub const KINDS: [&str; 12] = [
    "file",
    "encrypted",
    "agent",
    "pkcs11",
    "openssl",
    "tpm2",
    "aws-1",
    "aws-2",
    "azure",
    "gcp",
    "vault",
    "plugin",
];

/// One key source, and the `qkey` that can reach it.
pub struct Rig {
    pub qkey: Qkey,
    /// A key that exists, or one to create with `qkey generate`: see [`Rig::ready`].
    pub source: String,
    /// Whether `source` is still to be created.
    pub generates: bool,
    /// A source of this kind without a key.
    pub missing: String,
    /// A source whose passphrase or PIN is wrong.
    pub wrong: Option<String>,
    /// The program that the key source runs.
    pub program: Option<&'static str>,
    /// What must run as long as the key source is used.
    _servers: Box<dyn Any + Send>,
}

impl Rig {
    /// Sets up a kind of key source for `qkey`, which may reach a cluster; `test` keeps the keys of
    /// tests apart that share a service.
    pub fn new(kind: &'static str, test: &str, qkey: Qkey) -> Self {
        match kind {
            "file" => Self::of(qkey, "new.pem", "nope.pem").creating(),
            "encrypted" => {
                encrypt(&qkey);
                Self::of(
                    qkey,
                    "locked.pem?passphrase-file=right",
                    "nope.pem?passphrase-file=right",
                )
                .refusing("locked.pem?passphrase-file=wrong")
            }
            "agent" => agent(qkey),
            "pkcs11" => pkcs11(qkey),
            "openssl" => {
                encrypt(&qkey);
                Self::of(
                    qkey,
                    "openssl:locked.pem?provider=default&passphrase-file=right",
                    "openssl:nope.pem?provider=default",
                )
                .refusing("openssl:locked.pem?provider=default&passphrase-file=wrong")
                .running("openssl")
            }
            "tpm2" => tpm2(qkey),
            "aws-1" | "aws-2" => {
                let at = format!("region=eu-west-1&endpoint-url={}", moto());
                let source = |name: &str| format!("awskms:///alias/{test}-{kind}-{name}?{at}");
                Self::of(with_aws(qkey, kind), &source("new"), &source("nope"))
                    .creating()
                    .running("aws")
            }
            "azure" => {
                let source = |name: &str| Vault::new("rig").source(&format!("{test}-{name}"));
                Self::of(with_az(qkey), &source("new"), &source("nope"))
                    .creating()
                    .running("az")
            }
            "gcp" => gcp(qkey),
            "vault" => {
                let source = |name: &str| format!("hashivault://{test}-{name}");
                Self::of(with_bao(qkey, address()), &source("new"), &source("nope"))
                    .creating()
                    .running("bao")
            }
            "plugin" => {
                let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
                let path = std::env::var("PATH").expect("a PATH in UTF-8");
                let qkey = qkey.env("PATH", format!("{examples}:{path}"));
                Self::of(qkey, "plugin:example:carol.pem", "plugin:example:nope.pem")
                    .running("qkey-signer-example")
            }
            other => panic!("no key source of the kind {other}"),
        }
    }

    fn of(qkey: Qkey, source: &str, missing: &str) -> Self {
        Self {
            qkey,
            source: source.to_owned(),
            generates: false,
            missing: missing.to_owned(),
            wrong: None,
            program: None,
            _servers: Box::new(()),
        }
    }

    fn creating(self) -> Self {
        Self {
            generates: true,
            ..self
        }
    }

    fn refusing(self, wrong: &str) -> Self {
        Self {
            wrong: Some(wrong.to_owned()),
            ..self
        }
    }

    fn running(self, program: &'static str) -> Self {
        Self {
            program: Some(program),
            ..self
        }
    }

    fn with(self, servers: impl Any + Send) -> Self {
        Self {
            _servers: Box::new(servers),
            ..self
        }
    }

    /// A source with a key, created first if necessary.
    #[track_caller]
    pub fn ready(&self) -> String {
        if !self.generates {
            return self.source.clone();
        }
        let made = self.qkey.run(["generate", "--output=json", &self.source]);
        assert_eq!(made.code, 0, "{made:?}");
        let made = made.json()["source"].clone();
        assert_ne!(made, json!(null));
        made.as_str().expect("a string").to_owned()
    }

    /// Replaces the program by one that leaves the file `started` and never ends.
    pub fn hang(mut self) -> Self {
        let program = self.program.expect("a key source that runs a program");
        let bin = self.qkey.path("hangs");
        fs::create_dir(&bin).expect("a directory");
        let text = "#!/bin/sh\n: >started\nexec sleep 600\n";
        self.qkey.write_program(&format!("hangs/{program}"), text);
        self.qkey = self
            .qkey
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        self
    }
}

/// Carol's key in `locked.pem`, under the passphrase in the file `right`.
fn encrypt(qkey: &Qkey) {
    qkey.write("right", "open sesame");
    qkey.write("wrong", "open barley");
    prints(
        qkey,
        "openssl pkcs8 -topk8 -in carol.pem -passout file:right -out locked.pem",
    );
}

/// OpenSSH's agent with Carol's key.
fn agent(qkey: Qkey) -> Rig {
    let socket = qkey.path("agent.sock");
    let qkey = qkey.env("SSH_AUTH_SOCK", socket.to_str().expect("UTF-8"));
    let process = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ssh-agent runs");
    let process = Killed(process);
    wait_until("the agent's socket", || {
        UnixStream::connect(&socket).is_ok()
    });
    prints(
        &qkey,
        "cp carol.pem loaded && ssh-keygen -q -p -N '' -f loaded >/dev/null
         ssh-keygen -q -c -C carol -f loaded >/dev/null
         ssh-add -q loaded && rm loaded",
    );
    Rig::of(qkey, "ssh-agent:carol", "ssh-agent:nope").with(process)
}

/// A token of SoftHSM without keys.
fn pkcs11(qkey: Qkey) -> Rig {
    let module = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
    .expect("scripts/test-tools has installed SoftHSM");
    let tokens = qkey.path("tokens");
    fs::create_dir(&tokens).expect("a directory");
    let text = format!("directories.tokendir = {}\n", tokens.display());
    let configuration = qkey.write("softhsm.conf", text);
    let qkey = qkey
        .env("SOFTHSM2_CONF", configuration.to_str().expect("UTF-8"))
        .env("PKCS11_MODULE", module)
        .env("RIGHT", "1234")
        .env("WRONG", "4321");
    prints(
        &qkey,
        "softhsm2-util --init-token --free --label T --pin 1234 --so-pin 12345678",
    );
    Rig::of(
        qkey,
        "pkcs11:token=T;object=new?pin-env=RIGHT",
        "pkcs11:token=T;object=nope?pin-env=RIGHT",
    )
    .creating()
    .refusing("pkcs11:token=T;object=new?pin-env=WRONG")
}

/// A key that a TPM has wrapped, with the passphrase 1234.
fn tpm2(qkey: Qkey) -> Rig {
    let state = qkey.path("state");
    fs::create_dir(&state).expect("a directory");
    let tpm = Swtpm::start(&state);
    let qkey = qkey
        .env("TPM2OPENSSL_TCTI", tpm.address())
        .env("RIGHT", "1234")
        .env("WRONG", "4321");
    prints(
        &qkey,
        "openssl genpkey -provider tpm2 -provider default -propquery '?provider=tpm2' \
             -algorithm EC -pkeyopt group:P-256 -pkeyopt user-auth:1234 -out tpm.pem 2>&1",
    );
    let source = |name: &str, variable: &str| {
        format!("openssl:{name}?provider=tpm2,default&passphrase-env={variable}")
    };
    Rig::of(
        qkey,
        &source("tpm.pem", "RIGHT"),
        &source("nope.pem", "RIGHT"),
    )
    .refusing(&source("tpm.pem", "WRONG"))
    .running("openssl")
    .with(tpm)
}

/// A fake Cloud KMS without keys.
fn gcp(qkey: Qkey) -> Rig {
    let kms = FakeCloudKms::start();
    let (config, token) = (qkey.path("gcloud"), qkey.write("token", "token"));
    let qkey = qkey
        .env("CLOUDSDK_CONFIG", config.to_str().expect("UTF-8"))
        .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS", kms.url())
        .env("CLOUDSDK_CORE_PROJECT", "p")
        .env("GCE_METADATA_ROOT", "127.0.0.1:9")
        .env("QKEY_TIMEOUT", "120")
        .env(
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
            token.to_str().expect("UTF-8"),
        );
    let source = |name: &str| format!("gcpkms://{RING}/cryptoKeys/{name}");
    Rig::of(qkey, &source("new"), &source("nope"))
        .creating()
        .running("gcloud")
        .with(kms)
}

/// A process that ends with its rig.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
