//! A cluster as one run sees it: what several changes share is read only once.

use std::sync::{Arc, Mutex};

use crate::{
    cluster::{Cluster, StoredKey},
    error::Result,
    parallel::lock,
};

/// The stored keys of a cluster.
pub type Keys = Arc<[Arc<StoredKey>]>;

/// A cluster, and what this run knows about it.
pub struct View<'a> {
    pub cluster: &'a dyn Cluster,
    keys: Mutex<Option<Result<Keys>>>,
}

impl<'a> View<'a> {
    pub fn new(cluster: &'a dyn Cluster) -> Self {
        Self {
            cluster,
            keys: Mutex::default(),
        }
    }

    /// The key list, read once per run; others wait meanwhile.
    ///
    /// # Errors
    /// If it could not be read.
    pub fn keys(&self) -> Result<Keys> {
        let mut keys = lock(&self.keys);
        keys.get_or_insert_with(|| self.read_keys()).clone()
    }

    /// The key list, read again: after a refusal or a lost reply.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn keys_again(&self) -> Result<Keys> {
        let read = self.read_keys()?;
        let mut keys = lock(&self.keys);
        *keys = Some(Ok(read.clone()));
        Ok(read)
    }

    /// Makes the next use read the key list again: after a refusal.
    pub fn forget_keys(&self) {
        *lock(&self.keys) = None;
    }

    fn read_keys(&self) -> Result<Keys> {
        let keys = self.cluster.keys()?;
        Ok(keys.into_iter().map(Arc::new).collect())
    }
}
