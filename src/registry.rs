//! Values that are registered as long as something lives.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use crate::parallel::lock;

/// Values in the order of registration.
pub struct Registry<T>(Mutex<BTreeMap<u64, T>>);

/// Keeps a value registered while this lives.
pub struct Entry<T: 'static> {
    registry: &'static Registry<T>,
    number: u64,
}

impl<T> Registry<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub fn add(&'static self, value: T) -> Entry<T> {
        let mut values = self.lock();
        let number = values.last_key_value().map_or(0, |(last, _)| last + 1);
        values.insert(number, value);
        Entry {
            registry: self,
            number,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, T>> {
        lock(&self.0)
    }

    /// For when memory runs out: this thread may hold the lock.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, BTreeMap<u64, T>>> {
        self.0.try_lock().ok()
    }
}

impl<T> Entry<T> {
    /// Keeps the value registered until the process ends.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        self.registry.lock().insert(self.number, value);
    }
}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.number);
    }
}
