//! The real `az`, a fake Azure, and `qkey` that uses them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use super::qkey::{BOB, CAROL, Qkey};

/// A vault of the fake's. Each test has one of its own.
pub struct Vault(&'static str);

/// The fake, to which `az` has logged in; all the tests of a file share it, and it ends with them.
struct Fake {
    url: String,
    folder: PathBuf,
    /// With the tests goes the writing end of its stdin, and with that the process.
    _process: Child,
}

/// The folder with the program `az`, which `scripts/test-tools` has installed.
pub fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/azure-cli/bin");
    assert!(
        folder.join("az").exists(),
        "{} is not there: run scripts/test-tools",
        folder.display()
    );
    folder
}

/// `qkey` with `az`, which sees the fake as the whole of Azure, and is logged in.
pub fn with_az(qkey: Qkey) -> Qkey {
    static LOGGED_IN: OnceLock<()> = OnceLock::new();
    let config = fake().folder.join("azure");
    LOGGED_IN.get_or_init(|| {
        let output = Command::new(folder().join("az"))
            .args(["login", "--service-principal", "--allow-no-subscriptions"])
            .args(["--username=app", "--password=secret"])
            .arg("--tenant=00000000-0000-4000-8000-000000000001")
            .env_clear()
            .env("HOME", &fake().folder)
            .envs(environment(&config))
            .output()
            .expect("az runs");
        assert!(output.status.success(), "{output:?}");
    });
    with_config(qkey, &config)
}

/// As [`with_az`], but not logged in.
pub fn with_az_alone(qkey: Qkey) -> Qkey {
    let config = qkey.path("azure");
    with_config(qkey, &config)
}

fn with_config(qkey: Qkey, config: &Path) -> Qkey {
    environment(config)
        .into_iter()
        .fold(qkey, |qkey, (name, value)| qkey.env(name, &value))
}

fn environment(config: &Path) -> [(&'static str, String); 5] {
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    let shown = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    [
        ("PATH", format!("{}:{path}", shown(&folder()))),
        ("AZURE_CONFIG_DIR", shown(config)),
        // Several at a time on a busy machine take long.
        ("QKEY_TIMEOUT", "120".to_owned()),
        ("HTTPS_PROXY", fake().url.clone()),
        ("REQUESTS_CA_BUNDLE", shown(&fake().folder.join("ca.pem"))),
    ]
}

fn fake() -> &'static Fake {
    static FAKE: OnceLock<Fake> = OnceLock::new();
    FAKE.get_or_init(|| {
        let mut process = Command::new(folder().join("python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/fake_key_vault.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the fake Azure");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its stdout is piped"))
            .read_line(&mut line)
            .expect("the fake says where it is");
        let (port, folder) = line.trim().split_once(' ').expect("a port and a folder");
        Fake {
            url: format!("http://127.0.0.1:{port}"),
            folder: folder.into(),
            _process: process,
        }
    })
}

impl Vault {
    /// A vault with the keys `bob` and `carol`, each in the version 1.
    pub fn new(name: &'static str) -> Self {
        let vault = Self(name);
        vault.add("bob", 1, BOB);
        vault.add("carol", 1, CAROL);
        vault
    }

    /// The source of a key, or with `/` and [`version`] behind it of one version.
    pub fn source(&self, key: &str) -> String {
        format!("azurekms://{}/{key}", self.0)
    }

    /// Adds a version of a key, any in PEM.
    pub fn add(&self, key: &str, number: u32, private_key: &str) {
        self.write(key, &format!("{}.pem", version(number)), private_key);
    }

    /// Changes what the fake answers: see the head of `fake_key_vault.py`.
    pub fn set(&self, key: &str, file: &str, value: &Value) {
        self.write(key, file, &value.to_string());
    }

    fn write(&self, key: &str, file: &str, text: &str) {
        let folder = fake().folder.join(self.0).join(key);
        fs::create_dir_all(&folder).expect("a folder");
        // Read at any time: whole or not at all.
        let new = folder.join("new");
        fs::write(&new, text).expect("a file");
        fs::rename(new, folder.join(file)).expect("the file's name");
    }

    /// The calls so far: method, path and body.
    pub fn calls(&self) -> Vec<String> {
        let host = format!(" {}.", self.0);
        fs::read_to_string(fake().folder.join("calls"))
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains(&host))
            .map(str::to_owned)
            .collect()
    }
}

/// The fake's name of a version.
pub fn version(number: u32) -> String {
    format!("{number:032x}")
}
