//! The real `aws`, moto, and `qkey` that uses them.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use super::qkey::Qkey;

/// The versions of the AWS CLI that `scripts/test-tools` has installed.
pub const VERSIONS: [&str; 2] = ["aws-1", "aws-2"];

/// The folder with the program `aws` of one version.
pub fn folder(version: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/tools/{version}/bin"));
    assert!(
        folder.join("aws").exists(),
        "{} is not there: run scripts/test-tools",
        folder.display()
    );
    folder
}

/// `qkey` with one version of `aws`, and with credentials.
pub fn with_aws(qkey: Qkey, version: &str) -> Qkey {
    let path = std::env::var("PATH").expect("a PATH in UTF-8");
    qkey.env("PATH", format!("{}:{path}", folder(version).display()))
        .env("AWS_ACCESS_KEY_ID", "AKIAUSER")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_DEFAULT_REGION", "eu-west-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// The URL of one moto, which all the tests of a file share and which ends with them.
pub fn moto() -> &'static str {
    static MOTO: OnceLock<(String, Child)> = OnceLock::new();
    let start = || {
        let mut process = Command::new(folder("aws-1").join("python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/run_moto.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting moto");
        let mut port = String::new();
        BufReader::new(process.stdout.take().expect("its stdout is piped"))
            .read_line(&mut port)
            .expect("moto names its port");
        let url = format!("http://127.0.0.1:{}", port.trim());
        // With the tests goes the writing end of its stdin, and with that moto.
        (url, process)
    };
    &MOTO.get_or_init(start).0
}
