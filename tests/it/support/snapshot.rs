//! Snapshots of whole runs, with filters for what every run or every release makes differ.

use std::sync::LazyLock;

use regex::Regex;

use super::qkey::{ALICE_PUBLIC, BOB_PUBLIC, CAROL_PUBLIC, Qkey, Run};

/// The fingerprints of the three test keys, as `SHA256:` shows them.
const ALICE_FINGERPRINT: &str = "qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4";
const BOB_FINGERPRINT: &str = "Bigzvx05JkuLh8XqZqYLvjgVG8sWRtgDPZSXO2abn5s";
const CAROL_FINGERPRINT: &str = "JSkAIR0avXSXaOU9Y5LHbqSNYBdGNuIp6RwKJix49NQ";

/// How many characters a shortened fingerprint keeps.
const SHORT: usize = 12;

/// Runs `qkey` and compares exit code, stdout, and stderr with one snapshot:
/// `qkey_snapshot!(qkey, ["unlock", "--id=7"], str![[r#"…"#]])`. `SNAPSHOTS=overwrite` rewrites it.
macro_rules! qkey_snapshot {
    ($qkey:expr, $args:expr, $expected:expr $(,)?) => {
        snapbox::assert_data_eq!(
            $crate::support::snapshot::filtered(&$qkey.run($args)),
            snapbox::IntoData::raw($expected)
        )
    };
}
pub(crate) use qkey_snapshot;

/// Compares a text with a snapshot as it stands: no separator is normalized.
macro_rules! snapshot {
    ($text:expr, $expected:expr $(,)?) => {
        snapbox::assert_data_eq!($text, snapbox::IntoData::raw($expected))
    };
}
pub(crate) use snapshot;

/// Runs command lines of `qkey`, split at spaces, and shows each with its run.
pub fn session<'a>(qkey: &Qkey, lines: impl IntoIterator<Item = &'a str>) -> String {
    let runs = lines
        .into_iter()
        .map(|line| format!("$ qkey {line}\n{}", filtered(&qkey.line(line))));
    runs.collect()
}

/// Runs each case, and shows it with its name.
pub fn table<T: std::fmt::Display>(
    cases: impl IntoIterator<Item = T>,
    mut run: impl FnMut(&T) -> String,
) -> String {
    let shown = cases
        .into_iter()
        .map(|case| format!("==== {case}\n{}", run(&case)));
    shown.collect()
}

/// A run as one text, with [`filter`] applied.
pub fn filtered(run: &Run) -> String {
    filter(&run.transcript())
}

/// Replaces the test keys by `[ALICE]`, `[BOB]`, and `[CAROL]`, wherever they stand as Base64, as a
/// fingerprint, or as a shortened fingerprint (`[ALICE…]`), and the release by `[VERSION]`. Folders,
/// ports, and programs are replaced by [`Qkey::taken`](super::qkey::Qkey::taken).
pub fn filter(text: &str) -> String {
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        let version = regex::escape(env!("CARGO_PKG_VERSION"));
        Regex::new(&format!(r"\bqkey([ /]){version}\b")).expect("a pattern")
    });
    let keys = [
        ("ALICE", ALICE_PUBLIC, ALICE_FINGERPRINT),
        ("BOB", BOB_PUBLIC, BOB_FINGERPRINT),
        ("CAROL", CAROL_PUBLIC, CAROL_FINGERPRINT),
    ];
    let text = keys
        .iter()
        .fold(text.to_owned(), |text, (name, public, fingerprint)| {
            text.replace(public, &format!("[{name}]"))
                .replace(fingerprint, &format!("[{name}]"))
                .replace(&fingerprint[..SHORT], &format!("[{name}…]"))
        });
    VERSION.replace_all(&text, "qkey$1[VERSION]").into_owned()
}

#[test]
fn filter_replaces_keys_fingerprints_and_version() {
    let text = format!(
        "SHA256:{ALICE_FINGERPRINT} SHA256:{} {CAROL_PUBLIC} qkey {}",
        &BOB_FINGERPRINT[..SHORT],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        filter(&text),
        "SHA256:[ALICE] SHA256:[BOB…] [CAROL] qkey [VERSION]"
    );
}
