//! What all transports share: the typed calls, and retries of reads. Submissions are never retried.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{
    Check, Cluster, KeyRef, NewKey, Replacement, Result, Snapshot, StoredKey, Usage,
    call::Call,
    explain::{self, Site},
    failure::Attempt,
    reply::{self, Page, Parsed},
};
use crate::{interrupt, signature::Signature};

/// A way to make the calls.
pub trait Transport: Sync {
    fn site(&self) -> &Site;

    /// Makes a call once.
    fn attempt<T>(&self, call: Call<'_>, parse: impl Fn(&[u8]) -> Parsed<T>) -> Attempt<T>;

    /// Makes a call once, and reads all pages of the reply.
    fn attempt_list<T>(
        &self,
        call: Call<'_>,
        parse: impl Fn(&[u8]) -> Parsed<Page<T>>,
    ) -> Attempt<Vec<T>>;

    fn parse_usages(reply: &[u8]) -> Parsed<Page<Usage>>;

    /// Reads the reply to [`Call::Lock`] or [`Call::Unlock`].
    fn parse_done(reply: &[u8], call: Call<'_>) -> Parsed<()>;

    fn call<T>(&self, call: Call<'_>, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T> {
        retried(self.site(), call, || self.attempt(call, &parse))
    }

    fn list<T>(&self, call: Call<'_>, parse: impl Fn(&[u8]) -> Parsed<Page<T>>) -> Result<Vec<T>> {
        retried(self.site(), call, || self.attempt_list(call, &parse))
    }
}

impl<C: Transport> Cluster for C {
    fn keys(&self) -> Result<Vec<StoredKey>> {
        self.list(Call::Keys, reply::keys)
    }

    fn key_usage(&self, key_id: &str) -> Result<Vec<Usage>> {
        self.list(Call::KeyUsage(key_id), C::parse_usages)
    }

    fn add_key(&self, key: &NewKey<'_>) -> Result<()> {
        self.call(Call::AddKey(key), |reply| reply::added_key(reply, key))
    }

    fn replacement_challenge(&self, key: &KeyRef) -> Result<String> {
        self.call(Call::ReplacementChallenge(key), reply::challenge)
    }

    fn replace_key(&self, key_id: &str, replacement: &Replacement<'_>) -> Result<()> {
        self.call(Call::ReplaceKey(key_id, replacement), |reply| {
            reply::replaced_key(reply, key_id, replacement)
        })
    }

    fn snapshot(&self, id: u64) -> Result<Snapshot> {
        self.call(Call::Snapshot(id), |reply| reply::snapshot(reply, id))
    }

    fn unlocked_snapshots(&self) -> Result<HashSet<u64>> {
        let ids = self.list(Call::UnlockedSnapshots, reply::unlocked)?;
        Ok(ids.into_iter().collect())
    }

    fn unlock_challenge(&self, id: u64) -> Result<String> {
        self.call(Call::UnlockChallenge(id), reply::challenge)
    }

    fn unlock(&self, id: u64, signature: &Signature) -> Result<()> {
        let call = Call::Unlock(id, signature);
        self.call(call, |reply| C::parse_done(reply, call))
    }

    fn lock(&self, id: u64, key_id: &str) -> Result<()> {
        let call = Call::Lock(id, key_id);
        self.call(call, |reply| C::parse_done(reply, call))
    }

    fn gains_from_concurrency(&self) -> bool {
        // Each call starts a program. Over REST, concurrent calls would wait for the one connection.
        matches!(self.site().transport, explain::Transport::Qq(_))
    }

    fn check_command(&self, what: Check<'_>) -> String {
        (self.site().check_command)(what)
    }
}

/// The average pauses before the second and the third attempt.
#[cfg(not(test))]
const BACK_OFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];

/// As many attempts, without the pauses.
#[cfg(test)]
const BACK_OFF: [Duration; 2] = [Duration::ZERO; 2];

/// Makes a call. A read is retried after a transient failure, as
/// [`Failure::retry_after`](super::failure::Failure::retry_after) says, for at most as long as one call
/// may take: a longer wait that a cluster asks for is not worth it.
fn retried<T>(site: &Site, call: Call<'_>, attempt: impl Fn() -> Attempt<T>) -> Result<T> {
    let begun = Instant::now();
    for back_off in BACK_OFF {
        if call.is_submission() {
            break;
        }
        let failure = match attempt() {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        let pause = failure
            .retry_after()
            .map(|after| after.max(jittered(back_off)));
        let error = site.error(call, failure);
        match pause {
            Some(pause)
                if begun.elapsed().saturating_add(pause) <= site.timeout
                    && interrupt::received().is_none() =>
            {
                log::info!("{}; retrying", error.error.chain());
                interrupt::pause(pause);
            }
            _ => return Err(error),
        }
    }
    attempt().map_err(|failure| site.error(call, failure))
}

/// Half to one and a half times as long, so that calls that failed together do not retry together.
fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    let factor = 0.5 + (random >> 11) as f64 / (1u64 << 53) as f64;
    duration.mul_f64(factor)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{super::failure::Failure, *};
    use crate::{http, keyfile::PrivateKey};

    const PATIENCE: Duration = Duration::from_secs(1);

    /// How often a call is attempted if the first `failures` attempts fail, and whether the last one
    /// succeeds.
    fn attempts(call: Call<'_>, failures: usize, failure: impl Fn() -> Failure) -> (usize, bool) {
        let site = Site {
            address: "cluster:8000".to_owned(),
            login: None,
            log_in: String::new(),
            timeout: PATIENCE,
            check_command: Box::new(|_| String::new()),
            transport: explain::Transport::Qq("qq".to_owned()),
        };
        let made = Cell::new(0);
        let result = retried(&site, call, || {
            made.set(made.get() + 1);
            if made.get() <= failures {
                Err(failure())
            } else {
                Ok(())
            }
        });
        (made.get(), result.is_ok())
    }

    fn busy(after: Duration) -> impl Fn() -> Failure {
        move || Failure::api(503, "busy".to_owned(), Some(after))
    }

    #[test]
    fn transient_read_failure_is_retried_twice() {
        for (failures, expected) in [
            (0, (1, true)),
            (1, (2, true)),
            (2, (3, true)),
            (3, (3, false)),
        ] {
            assert_eq!(
                attempts(Call::Keys, failures, busy(Duration::ZERO)),
                expected
            );
        }
    }

    #[test]
    fn permanent_failure_is_not_retried() {
        let failures: [fn() -> Failure; 4] = [
            || Failure::api(400, "no".to_owned(), None),
            || Failure::api(403, "no right".to_owned(), None),
            || Failure::QqWithoutHost,
            || Failure::Connection(http::Failure::TimedOut(PATIENCE)),
        ];
        for failure in failures {
            assert_eq!(attempts(Call::Keys, 1, failure), (1, false));
        }
    }

    #[test]
    fn retry_after_beyond_patience_is_not_awaited() {
        assert_eq!(attempts(Call::Keys, 1, busy(PATIENCE * 2)), (1, false));
    }

    #[test]
    fn submission_is_never_retried() {
        let key = PrivateKey::generate();
        let (public_key, signature) = (key.public_key(), key.sign(b"text"));
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
        for call in [
            Call::AddKey(&new),
            Call::ReplaceKey("1", &replacement),
            Call::Lock(7, "1"),
            Call::Unlock(7, &signature),
        ] {
            assert_eq!(attempts(call, 1, busy(Duration::ZERO)), (1, false));
        }
    }

    #[test]
    fn pauses_are_jittered() {
        let pauses: Vec<Duration> = (0..64).map(|_| jittered(PATIENCE)).collect();
        let between = PATIENCE / 2..=PATIENCE * 3 / 2;
        assert!(pauses.iter().all(|pause| between.contains(pause)));
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
