//! What a change contributes; everything else is the [driver](super::driver)'s.

use std::sync::Arc;

use super::{
    challenge::Purpose,
    proof::{Response, Signatory},
    view::View,
};
use crate::{
    cluster::{self, Check, Cluster, StoredKey},
    error::{Error, Result},
    public_key::PublicKey,
};

/// One state of the cluster to be reached.
pub trait Change: Sync {
    /// What has to be known of the cluster.
    type State: Send + Sync;

    /// Reads the state: `before` is what an earlier read showed, and `None` on the first read.
    ///
    /// # Errors
    /// When it cannot be read, or when what is to be changed does not exist on the first read.
    fn observe(&self, view: &View<'_>, before: Option<&Self::State>) -> Result<Self::State>;

    /// What the proof is for, and thereby where its challenge comes from. `None` if that takes the
    /// state, and the state is not known yet.
    fn challenge(&self, state: Option<&Self::State>) -> Option<Purpose>;

    /// Who must sign, in the order in which a person is asked.
    ///
    /// # Errors
    /// When the cluster does not show a stored key that must sign.
    fn roles(&self, state: &Self::State, keys: &[Arc<StoredKey>]) -> Result<Vec<Signatory>>;

    /// How `now` relates to what is wanted. `before` is what the proof was made for.
    fn compare(
        &self,
        before: &Self::State,
        now: &Self::State,
        new_key: Option<&PublicKey>,
    ) -> Comparison;

    /// Submits the change once.
    ///
    /// # Errors
    /// As the cluster's.
    fn submit(
        &self,
        cluster: &dyn Cluster,
        before: &Self::State,
        response: &Response,
    ) -> cluster::Result<()>;

    /// What is requested, for messages: `replace key 1 ("lock")`.
    fn title(&self, state: &Self::State) -> String;

    /// What shows whether it was done.
    fn check(&self) -> Check<'_>;

    /// What the user should know of the result, though it is no failure.
    fn warnings(&self, _state: &Self::State, _new_key: Option<&PublicKey>) -> Vec<String> {
        Vec::new()
    }
}

/// How the cluster's state relates to a change.
pub enum Comparison {
    /// It is what is wanted.
    Met,
    /// It is as before.
    Unmet,
    /// That depends on the new key, which is not known.
    NeedsNewKey,
    /// It is neither.
    Conflict(Conflict),
}

impl Comparison {
    /// A conflict from which the change cannot be made.
    pub fn conflict(now: String, error: Error) -> Self {
        let error = Some(error);
        Self::Conflict(Conflict { now, error })
    }
}

/// A state that is neither what was before nor what is wanted.
pub struct Conflict {
    /// What it is instead, to follow "and now": `it is locked with key 2`.
    pub now: String,
    /// Why the change cannot be made from there, with the next step as its hint; `None` if it can.
    pub error: Option<Error>,
}
