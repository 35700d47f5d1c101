//! A cluster and keys in memory, for tests: the cluster verifies what it receives, and both fail where
//! a test says so.

use std::{
    collections::{BTreeMap, HashSet},
    ops::RangeBounds,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    cluster::{
        self, Certainty, Check, Cluster, KeyRef, NewKey, Replacement, Snapshot, StoredKey, Usage,
    },
    error::{Error, Kind, Result},
    keyfile::PrivateKey,
    public_key::PublicKey,
    signature::Signature,
    signer::{KeySource, Opened, Signer},
};

/// The error, which must have this kind and this exit code.
#[track_caller]
pub fn failed<T>(result: Result<T>, kind: Kind, exit_code: u8) -> Error {
    let error = result.err().expect("it fails");
    let got = (error.kind(), error.kind().exit_code());
    assert_eq!(got, (kind, exit_code), "{}", told(&error));
    error
}

/// What the user is told of an error.
pub fn told(error: &Error) -> String {
    let hint = error.hint_text().unwrap_or_default();
    format!("{error}\n{}\n{hint}", error.causes().join("\n"))
}

#[track_caller]
pub fn assert_tells(error: &Error, words: &str) {
    let told = told(error);
    assert!(told.contains(words), "{words:?} is missing in: {told}");
}

/// A point that the expected number of threads must reach at the same time; otherwise those that wait
/// there panic.
pub struct Rendezvous {
    expected: usize,
    arrived: Mutex<usize>,
    changed: Condvar,
}

impl Rendezvous {
    /// Only a failing test waits this long.
    const GIVING_UP: Duration = Duration::from_secs(20);

    pub fn of(expected: usize) -> Arc<Self> {
        Arc::new(Self {
            expected,
            arrived: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub fn meet(&self) {
        let mut arrived = lock(&self.arrived);
        *arrived += 1;
        self.changed.notify_all();
        let alone = |arrived: &mut usize| *arrived < self.expected;
        let waited = self
            .changed
            .wait_timeout_while(arrived, Self::GIVING_UP, alone);
        let (arrived, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let arrived = *arrived;
        assert!(
            !timeout.timed_out(),
            "{arrived} of {} steps ran side by side",
            self.expected
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call to the cluster, as it is recorded and as faults are scripted for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Keys,
    Usage,
    Add,
    ReplacementChallenge(&'static str),
    Replace,
    Snapshot(u64),
    UnlockedSnapshots,
    UnlockChallenge(u64),
    Unlock(u64),
    Lock(u64),
}

impl Call {
    pub fn is_submission(&self) -> bool {
        matches!(
            self,
            Call::Add | Call::Replace | Call::Unlock(_) | Call::Lock(_)
        )
    }

    fn is_look(&self) -> bool {
        matches!(
            self,
            Call::Keys | Call::Snapshot(_) | Call::UnlockedSnapshots
        )
    }
}

/// What happens to a call before or instead of its usual effect.
#[derive(Clone)]
pub enum Fault {
    /// It waits for other steps to get there.
    Meet(Arc<Rendezvous>),
    /// Another user changes something just before the cluster handles the call.
    Meanwhile(fn(&mut World)),
    Refused,
    Unauthorized,
    NotSent,
    /// It does not arrive, and there is no reply.
    Lost,
    /// It is carried out and its reply lost; this read is the first to show it.
    LostAfter(usize),
    /// The reply is lost because of a signal.
    Stopped(Kind),
    /// The reply says that it was carried out, and it was not.
    Ignored,
}

impl Fault {
    fn error(&self) -> cluster::Error {
        let (certainty, kind, message) = match self {
            Fault::Refused => (Certainty::Refused, Kind::Refused, "Error 400: no".into()),
            Fault::Unauthorized => (Certainty::Refused, Kind::Auth, "Error 403: no right".into()),
            Fault::NotSent => (
                Certainty::NotSent,
                Kind::Unreachable,
                "connection refused".into(),
            ),
            Fault::Lost | Fault::LostAfter(_) => {
                (Certainty::Lost, Kind::Unreachable, "timed out".into())
            }
            Fault::Stopped(kind) => (Certainty::Lost, *kind, format!("stopped: {kind:?}")),
            Fault::Meet(_) | Fault::Meanwhile(_) | Fault::Ignored => {
                unreachable!("this makes no call fail")
            }
        };
        cluster::Error::new(certainty, Error::new(kind, message))
    }
}

/// A stored key, and how often it was replaced.
#[derive(Clone)]
struct Held {
    key: StoredKey,
    version: u32,
}

/// The state of a cluster.
#[derive(Clone, Default)]
pub struct World {
    keys: Vec<Held>,
    snapshots: BTreeMap<u64, Snapshot>,
    /// The snapshots that show the challenge of another one.
    borrowed_challenges: BTreeMap<u64, u64>,
}

impl World {
    pub fn with_key(mut self, name: &str, public_key: &PublicKey) -> Self {
        self.store(name, "", public_key);
        self
    }

    pub fn with_snapshot(mut self, id: u64, lock_key: Option<&str>) -> Self {
        let snapshot = Snapshot {
            id,
            name: format!("daily-{id}"),
            source_file_path: "/data/".to_owned(),
            timestamp: "2026-01-01T00:00:00Z".to_owned(),
            expiration: "2027-01-01T00:00:00Z".to_owned(),
            lock_key: lock_key.map(str::to_owned),
        };
        self.snapshots.insert(id, snapshot);
        self
    }

    /// A change by hand.
    pub fn with(mut self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self);
        self
    }

    /// Ids count from 1.
    pub fn store(&mut self, name: &str, comment: &str, public_key: &PublicKey) -> StoredKey {
        let key = StoredKey {
            id: (self.keys.len() + 1).to_string(),
            name: name.to_owned(),
            comment: comment.to_owned(),
            disabled: false,
            public_key: public_key.to_base64(),
        };
        let held = Held {
            key: key.clone(),
            version: 1,
        };
        self.keys.push(held);
        key
    }

    pub fn key(&mut self, id: &str) -> &mut StoredKey {
        &mut self.held(id).key
    }

    pub fn remove_key(&mut self, id: &str) {
        self.keys.retain(|held| held.key.id != id);
    }

    pub fn snapshot(&mut self, id: u64) -> &mut Snapshot {
        self.snapshots.get_mut(&id).expect("the snapshot is there")
    }

    pub fn stored_keys(&self) -> Vec<StoredKey> {
        self.keys.iter().map(|held| held.key.clone()).collect()
    }

    fn held(&mut self, id: &str) -> &mut Held {
        let found = self.keys.iter_mut().find(|held| held.key.id == id);
        found.expect("the key is there")
    }

    /// With line ends and letters that no transport may change.
    pub fn replacement_challenge(&self, key: &KeyRef) -> std::result::Result<String, String> {
        let held = self.keys.iter().find(|held| key.matches(&held.key));
        let Held { key, version } = held.ok_or("fs_no_such_entry_error")?;
        Ok(format!(
            "Schlüssel {} „{}“ ({}), version {version}\r\n",
            key.id, key.name, key.comment
        ))
    }

    /// The snapshot `id` shows the challenge of snapshot `other`.
    pub fn with_challenge_of(mut self, id: u64, other: u64) -> Self {
        self.borrowed_challenges.insert(id, other);
        self
    }

    pub fn unlock_challenge(&self, id: u64) -> std::result::Result<String, String> {
        if let Some(other) = self.borrowed_challenges.get(&id) {
            return Ok(format!(" {other} 1 {}\n", self.status(*other)?.expiration));
        }
        let snapshot = self.status(id)?;
        match &snapshot.lock_key {
            Some(key) => Ok(format!(" {id} {key} {}\n", snapshot.expiration)),
            None => Err("snapshot_not_locked_error".to_owned()),
        }
    }

    fn status(&self, id: u64) -> std::result::Result<Snapshot, String> {
        let snapshot = self.snapshots.get(&id).cloned();
        snapshot.ok_or_else(|| "snapshot_not_found_error".to_owned())
    }

    fn add(&mut self, new: &NewKey<'_>) -> std::result::Result<StoredKey, String> {
        if self.keys.iter().any(|held| held.key.name == new.name) {
            return Err("fs_entry_exists_error".to_owned());
        }
        verify(new.signature, new.public_key, new.name)?;
        Ok(self.store(new.name, new.comment, new.public_key))
    }

    fn replace(
        &mut self,
        id: &str,
        replacement: &Replacement<'_>,
    ) -> std::result::Result<StoredKey, String> {
        let challenge = self.replacement_challenge(&KeyRef::Id(id.to_owned()))?;
        let held = self.held(id);
        let old = held.key.public_key().map_err(|error| error.to_string())?;
        verify(replacement.old_signature, &old, &challenge)?;
        verify(replacement.new_signature, replacement.new_key, &challenge)?;
        held.key.public_key = replacement.new_key.to_base64();
        held.version += 1;
        Ok(held.key.clone())
    }

    fn unlock(&mut self, id: u64, signature: &Signature) -> std::result::Result<(), String> {
        let challenge = self.unlock_challenge(id)?;
        let lock_key = self.snapshot(id).lock_key.clone().unwrap_or_default();
        let key = self.key(&lock_key).public_key();
        verify(
            signature,
            &key.map_err(|error| error.to_string())?,
            &challenge,
        )?;
        self.snapshot(id).lock_key = None;
        Ok(())
    }

    fn lock(&mut self, id: u64, key_id: &str) -> std::result::Result<(), String> {
        if self.status(id)?.lock_key.is_some() {
            return Err("snapshot_locked_error".to_owned());
        }
        match self.keys.iter().find(|held| held.key.id == key_id) {
            Some(held) if held.key.disabled => Err("fs_key_disabled_error".to_owned()),
            Some(_) => {
                self.snapshot(id).lock_key = Some(key_id.to_owned());
                Ok(())
            }
            None => Err("fs_no_such_entry_error".to_owned()),
        }
    }
}

fn verify(
    signature: &Signature,
    key: &PublicKey,
    challenge: &str,
) -> std::result::Result<(), String> {
    if signature.verifies(key, challenge.as_bytes()) {
        Ok(())
    } else {
        Err("fs_invalid_signature_error".to_owned())
    }
}

type Matcher = Box<dyn Fn(&Call, usize) -> bool + Send + Sync>;

/// A cluster in memory.
pub struct FakeCluster {
    state: Mutex<State>,
    faults: Vec<(Matcher, Fault)>,
    one_at_a_time: bool,
}

struct State {
    world: World,
    /// What the next reads show instead, and how many of them.
    outdated: Option<(World, usize)>,
    calls: Vec<Call>,
}

impl State {
    fn shown(&mut self, call: &Call) -> World {
        match &mut self.outdated {
            Some((world, looks)) if *looks > 0 => {
                *looks -= usize::from(call.is_look());
                world.clone()
            }
            _ => self.world.clone(),
        }
    }
}

impl FakeCluster {
    pub fn new(world: World) -> Self {
        Self {
            state: Mutex::new(State {
                world,
                outdated: None,
                calls: Vec::new(),
            }),
            faults: Vec::new(),
            one_at_a_time: false,
        }
    }

    /// It has one connection, and calls wait for it.
    pub fn one_call_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Scripts a fault for the 1st, 2nd … time that exactly this call is made.
    pub fn fault(
        mut self,
        call: Call,
        times: impl RangeBounds<usize> + Send + Sync + 'static,
        fault: Fault,
    ) -> Self {
        let matcher = move |made: &Call, time| *made == call && times.contains(&time);
        self.faults.push((Box::new(matcher), fault));
        self
    }

    /// Each snapshot can be read once, and no listing.
    pub fn with_snapshots_unreadable_after_the_first_look(self, fault: Fault) -> Self {
        (1..=9)
            .fold(self, |cluster, id| {
                cluster.fault(Call::Snapshot(id), 2.., fault.clone())
            })
            .fault(Call::UnlockedSnapshots, .., fault)
    }

    /// What was called, in this order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.state).calls.clone()
    }

    pub fn count(&self, call: &Call) -> usize {
        self.calls().iter().filter(|made| *made == call).count()
    }

    pub fn submissions(&self) -> usize {
        self.calls()
            .iter()
            .filter(|call| call.is_submission())
            .count()
    }

    /// Its state now.
    pub fn world(&self) -> World {
        lock(&self.state).world.clone()
    }

    /// Records the call; the fault that ends it, after those that only come before.
    fn begin(&self, call: &Call) -> Option<Fault> {
        let time = {
            let calls = &mut lock(&self.state).calls;
            calls.push(call.clone());
            calls.iter().filter(|made| *made == call).count()
        };
        let mut end = None;
        for (matches, fault) in &self.faults {
            match fault {
                _ if !matches(call, time) => {}
                Fault::Meet(rendezvous) => rendezvous.meet(),
                Fault::Meanwhile(change) => change(&mut lock(&self.state).world),
                fault => end = Some(fault.clone()),
            }
        }
        end
    }

    fn read<T>(
        &self,
        call: Call,
        answer: impl FnOnce(&World) -> std::result::Result<T, String>,
    ) -> cluster::Result<T> {
        match self.begin(&call) {
            Some(fault) => Err(fault.error()),
            None => answer(&lock(&self.state).shown(&call)).map_err(refusal),
        }
    }

    fn submit<T>(
        &self,
        call: Call,
        change: impl FnOnce(&mut World) -> std::result::Result<T, String>,
    ) -> cluster::Result<()> {
        let fault = self.begin(&call);
        let mut state = lock(&self.state);
        let before = state.world.clone();
        match fault {
            None => change(&mut state.world).map(drop).map_err(refusal),
            Some(Fault::Ignored) => Ok(()),
            Some(fault) => {
                if let Fault::LostAfter(look) = fault {
                    change(&mut state.world).map_err(refusal)?;
                    state.outdated = Some((before, look - 1));
                }
                Err(fault.error())
            }
        }
    }
}

fn refusal(words: String) -> cluster::Error {
    cluster::Error::new(Certainty::Refused, Error::new(Kind::Refused, words))
}

impl Cluster for FakeCluster {
    fn keys(&self) -> cluster::Result<Vec<StoredKey>> {
        self.read(Call::Keys, |world| Ok(world.stored_keys()))
    }

    fn key_usage(&self, _key_id: &str) -> cluster::Result<Vec<Usage>> {
        self.read(Call::Usage, |_| Ok(Vec::new()))
    }

    fn add_key(&self, key: &NewKey<'_>) -> cluster::Result<()> {
        self.submit(Call::Add, |world| world.add(key))
    }

    fn replacement_challenge(&self, key: &KeyRef) -> cluster::Result<String> {
        assert!(key.is_addressable(), "{key:?} would be misread in a URL");
        let how = match key {
            KeyRef::Id(_) => "by id",
            KeyRef::Name(_) | KeyRef::Fingerprint(_) => "by name",
        };
        self.read(Call::ReplacementChallenge(how), |world| {
            world.replacement_challenge(key)
        })
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> cluster::Result<()> {
        self.submit(Call::Replace, |world| world.replace(key_id, replacement))
    }

    fn snapshot(&self, id: u64) -> cluster::Result<Snapshot> {
        self.read(Call::Snapshot(id), |world| world.status(id))
    }

    fn unlocked_snapshots(&self) -> cluster::Result<HashSet<u64>> {
        self.read(Call::UnlockedSnapshots, |world| {
            let unlocked = world.snapshots.values();
            let unlocked = unlocked.filter(|snapshot| snapshot.lock_key.is_none());
            Ok(unlocked.map(|snapshot| snapshot.id).collect())
        })
    }

    fn unlock_challenge(&self, id: u64) -> cluster::Result<String> {
        self.read(Call::UnlockChallenge(id), |world| {
            world.unlock_challenge(id)
        })
    }

    fn unlock(&self, id: u64, signature: &Signature) -> cluster::Result<()> {
        self.submit(Call::Unlock(id), |world| world.unlock(id, signature))
    }

    fn lock(&self, id: u64, key_id: &str) -> cluster::Result<()> {
        self.submit(Call::Lock(id), |world| world.lock(id, key_id))
    }

    fn gains_from_concurrency(&self) -> bool {
        !self.one_at_a_time
    }

    fn check_command(&self, what: Check) -> String {
        match what {
            Check::Keys => "check keys".to_owned(),
            Check::Snapshot(id) => format!("check snapshot {id}"),
            Check::Snapshots => "check snapshots".to_owned(),
            Check::EnableKey(id) => format!("enable key {id}"),
            Check::CommentKey(id) => format!("comment key {id}"),
        }
    }
}

/// How a key source opens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    ByItself,
    /// A person is asked first.
    Asks,
    /// A person is asked, and that fails.
    AsksInVain(Kind),
    Fails(Kind),
}

/// How a signer signs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    Well,
    /// One line end too many.
    OtherBytes,
    /// Not the key that it shows.
    AnotherKey,
    Fails,
}

/// A key source in memory.
pub struct FakeSource {
    title: String,
    opening: Opening,
    meets_when_opened: Option<Arc<Rendezvous>>,
    signer: FakeSigner,
    opened: AtomicUsize,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct FakeSigner {
    key: Arc<PrivateKey>,
    public_key: PublicKey,
    signing: Signing,
    meets_when_signing: Option<Arc<Rendezvous>>,
    signed: Arc<Mutex<Vec<String>>>,
}

impl FakeSource {
    /// A new key.
    pub fn new(title: &str) -> Self {
        let key = PrivateKey::generate();
        Self {
            title: title.to_owned(),
            opening: Opening::ByItself,
            meets_when_opened: None,
            signer: FakeSigner {
                public_key: key.public_key(),
                key: Arc::new(key),
                signing: Signing::Well,
                meets_when_signing: None,
                signed: Arc::default(),
            },
            opened: AtomicUsize::new(0),
            asked: Arc::default(),
        }
    }

    pub fn opening(mut self, opening: Opening) -> Self {
        self.opening = opening;
        self
    }

    pub fn signing(mut self, signing: Signing) -> Self {
        self.signer.signing = signing;
        self
    }

    pub fn meeting_when_opened(mut self, rendezvous: &Arc<Rendezvous>) -> Self {
        self.meets_when_opened = Some(rendezvous.clone());
        self
    }

    pub fn meeting_when_signing(mut self, rendezvous: &Arc<Rendezvous>) -> Self {
        self.signer.meets_when_signing = Some(rendezvous.clone());
        self
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.signer.public_key
    }

    /// How often it was opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How often the user was prompted for it.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// What it was given to sign, in this order.
    pub fn signed(&self) -> Vec<String> {
        lock(&self.signer.signed).clone()
    }
}

impl KeySource for FakeSource {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn open(&self) -> Result<Opened> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if let Some(rendezvous) = &self.meets_when_opened {
            rendezvous.meet();
        }
        let cannot_open = format!("cannot open {}", self.title);
        let signer = Box::new(self.signer.clone());
        let failure = match self.opening {
            Opening::ByItself => return Ok(Opened::Signer(signer)),
            Opening::Fails(kind) => return Err(Error::new(kind, cannot_open)),
            Opening::Asks => None,
            Opening::AsksInVain(kind) => Some(Error::new(kind, cannot_open)),
        };
        let asked = self.asked.clone();
        Ok(Opened::Locked(Box::new(move || {
            asked.fetch_add(1, Ordering::SeqCst);
            match failure {
                None => Ok(signer),
                Some(error) => Err(error),
            }
        })))
    }
}

impl Signer for FakeSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn sign(&self, challenge: &[u8]) -> Result<Signature> {
        let text = std::str::from_utf8(challenge).expect("a challenge is UTF-8");
        lock(&self.signed).push(text.to_owned());
        if let Some(rendezvous) = &self.meets_when_signing {
            rendezvous.meet();
        }
        match self.signing {
            Signing::Well => Ok(self.key.sign(challenge)),
            Signing::OtherBytes => Ok(self.key.sign(&[challenge, b"\n"].concat())),
            Signing::AnotherKey => Ok(PrivateKey::generate().sign(challenge)),
            Signing::Fails => Err(Error::new(Kind::Key, "the token was pulled out")),
        }
    }
}
