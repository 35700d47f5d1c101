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

/// A state of the cluster to be reached.
pub trait Change: Sync {
    /// What the change needs to know about the cluster.
    type State: Send + Sync;

    /// Reads the state: `before` is what an earlier read showed, and `None` on the first read.
    ///
    /// # Errors
    /// If it cannot be read, or the object to change does not exist on the first read.
    fn observe(&self, view: &View<'_>, before: Option<&Self::State>) -> Result<Self::State>;

    /// What the proof is for, and therefore where its challenge comes from. `None` if that depends on
    /// the state, which is not known yet.
    fn challenge(&self, state: Option<&Self::State>) -> Option<Purpose>;

    /// Who must sign, in the order of prompting.
    ///
    /// # Errors
    /// If the cluster does not show a stored key that must sign.
    fn roles(&self, state: &Self::State, keys: &[Arc<StoredKey>]) -> Result<Vec<Signatory>>;

    /// How `now` relates to the wanted state. `before` is the state that the proof was made for.
    fn compare(
        &self,
        before: &Self::State,
        now: &Self::State,
        new_key: Option<&PublicKey>,
    ) -> Comparison;

    /// Submits the change once.
    ///
    /// # Errors
    /// Those of the cluster.
    fn submit(
        &self,
        cluster: &dyn Cluster,
        before: &Self::State,
        response: &Response,
    ) -> cluster::Result<()>;

    /// What is requested, for messages: `replace key 1 ("lock")`.
    fn title(&self, state: &Self::State) -> String;

    /// The command that shows whether it was done.
    fn check(&self) -> Check<'_>;

    /// What the user should know about the result although it is not a failure.
    fn warnings(&self, _state: &Self::State, _new_key: Option<&PublicKey>) -> Vec<String> {
        Vec::new()
    }
}

/// How the cluster's state relates to a change.
pub enum Comparison {
    /// It is the wanted state.
    Met,
    /// It is as before.
    Unmet,
    /// That depends on the new key, which is not known yet.
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

/// A state that is neither the previous nor the wanted one.
pub struct Conflict {
    /// What it is instead, to follow "and now": `it is locked with key 2`.
    pub now: String,
    /// Why the change cannot be made from this state, with a hint; `None` if it can.
    pub error: Option<Error>,
}
