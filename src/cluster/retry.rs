//! Retries of reads. Submissions are never retried.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{Check, Cluster, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey, Usage};
use crate::{interrupt, signature::Signature};

/// The average pauses before the second and the third attempt.
#[cfg(not(test))]
const BACK_OFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// The same number of attempts, without the wait.
#[cfg(test)]
const BACK_OFF: [Duration; 2] = [Duration::ZERO; 2];

/// A cluster whose reads are retried after a transient failure, as [`Failure::retry_after`] says.
///
/// [`Failure::retry_after`]: super::failure::Failure::retry_after
pub struct Retrying<C> {
    cluster: C,
    /// The total time for retries. A cluster that asks for a longer wait is given up.
    patience: Duration,
}

impl<C: Cluster> Retrying<C> {
    pub fn new(cluster: C, patience: Duration) -> Self {
        Self { cluster, patience }
    }

    fn read<T>(&self, call: impl Fn(&C) -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        for back_off in BACK_OFF {
            let error = match call(&self.cluster) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = match error.failure.retry_after() {
                Some(after) => after.max(jittered(back_off)),
                None => return Err(error),
            };
            if begun.elapsed().saturating_add(pause) > self.patience
                || interrupt::received().is_some()
            {
                return Err(error);
            }
            log::info!("{}; retrying", error.error.chain());
            interrupt::pause(pause);
        }
        call(&self.cluster)
    }
}

/// Half to one and a half times as long, so that calls that failed together do not retry together.
fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    let factor = 0.5 + (random >> 11) as f64 / (1u64 << 53) as f64;
    duration.mul_f64(factor)
}

impl<C: Cluster> Cluster for Retrying<C> {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.read(C::keys)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.read(|cluster| cluster.key_usage(key_id))
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        self.cluster.add_key(key)
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        self.read(|cluster| cluster.replacement_challenge(key))
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
        self.cluster.replace_key(key_id, replacement)
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        self.read(|cluster| cluster.snapshot(id))
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        self.read(C::unlocked_snapshots)
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.read(|cluster| cluster.unlock_challenge(id))
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        self.cluster.unlock(id, signature)
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        self.cluster.lock(id, key_id)
    }

    fn gains_from_concurrency(&self) -> bool {
        self.cluster.gains_from_concurrency()
    }

    fn check_command(&self, what: Check<'_>) -> String {
        self.cluster.check_command(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ceremony::fakes::{Call, FakeCluster, FakeSource, Fault, World},
        error::Kind,
        signer::KeySource,
    };

    const PATIENCE: Duration = Duration::from_secs(1);

    /// How often the key list is requested when the first `failures` requests fail with `fault`, and
    /// whether the last one succeeds.
    fn requests(failures: usize, fault: Fault) -> (usize, bool) {
        let cluster = FakeCluster::new(World::default()).fault(Call::Keys, ..=failures, fault);
        let retrying = Retrying::new(cluster, PATIENCE);
        let came = retrying.keys().is_ok();
        (retrying.cluster.count(&Call::Keys), came)
    }

    #[test]
    fn transient_read_failure_is_retried_twice() {
        let passing = || Fault::Passing(Duration::ZERO);
        assert_eq!(requests(0, passing()), (1, true));
        assert_eq!(requests(1, passing()), (2, true));
        assert_eq!(requests(2, passing()), (3, true));
        assert_eq!(requests(3, passing()), (3, false));
    }

    #[test]
    fn permanent_failure_is_not_retried() {
        for fault in [
            Fault::Refused,
            Fault::Unauthorized,
            Fault::NotSent,
            Fault::Lost,
        ] {
            assert_eq!(requests(1, fault), (1, false));
        }
    }

    #[test]
    fn retry_after_beyond_patience_is_not_awaited() {
        assert_eq!(requests(1, Fault::Passing(PATIENCE * 2)), (1, false));
    }

    #[test]
    fn submission_is_never_retried() {
        let source = FakeSource::new("a.pem");
        let signer = source.open().unwrap().unlock().unwrap();
        let signature = signer.sign(b"text").unwrap();
        let mut cluster = FakeCluster::new(World::default());
        for call in [Call::Add, Call::Replace, Call::Lock(7), Call::Unlock(7)] {
            cluster = cluster.fault(call, .., Fault::Passing(Duration::ZERO));
        }
        let retrying = Retrying::new(cluster, PATIENCE);
        let key = source.public_key();
        let new = NewKey {
            name: "lock",
            comment: "",
            public_key: key,
            signature: &signature,
        };
        let replacement = Replacement {
            new_key: key,
            old_signature: &signature,
            new_signature: &signature,
        };
        let failures = [
            retrying.add_key(&new),
            retrying.replace_key("1", &replacement),
            retrying.lock(7, "1"),
            retrying.unlock(7, &signature),
        ];
        for failure in failures {
            assert_eq!(failure.unwrap_err().error.kind(), Kind::Unreachable);
        }
        assert_eq!(retrying.cluster.submissions(), 4);
    }

    #[test]
    fn pauses_are_jittered() {
        let pauses: Vec<Duration> = (0..64).map(|_| jittered(PATIENCE)).collect();
        let between = PATIENCE / 2..=PATIENCE * 3 / 2;
        assert!(pauses.iter().all(|pause| between.contains(pause)));
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
