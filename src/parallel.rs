//! Concurrent work, which runs sequentially if the system has no more threads.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ScopedJoinHandle},
};

/// Locks a mutex whose data stays valid even if a thread panicked while holding it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs both, concurrently if possible, and returns both results.
///
/// # Panics
/// If one of them does, with its own message.
pub fn both<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    // If the thread cannot start, its closure is dropped; the work must survive that.
    let first = Mutex::new(Some(first));
    let take = || lock(&first).take();
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || take().map(|first| first()));
        let second = second();
        let first = match thread {
            Ok(thread) => join(thread),
            Err(_) => take().map(|first| first()),
        };
        (first.expect("the work is taken once"), second)
    })
}

/// Runs `work` on a detached thread, or here if no thread can start.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    let work = Arc::new(Mutex::new(Some(work)));
    let run = {
        let work = work.clone();
        move || {
            let work = lock(&work).take();
            if let Some(work) = work {
                work();
            }
        }
    };
    if thread::Builder::new().spawn(run.clone()).is_err() {
        run();
    }
}

/// Runs `work` on every item, concurrently if possible, and returns the results in the order of the
/// items.
///
/// # Panics
/// If `work` does, with its own message.
pub fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| {
                let thread = thread::Builder::new().spawn_scoped(scope, move || work(item));
                (item, thread)
            })
            .collect();
        threads
            .into_iter()
            .map(|(item, thread)| match thread {
                Ok(thread) => join(thread),
                Err(_) => work(item),
            })
            .collect()
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, sync::Barrier};

    use super::*;

    #[test]
    fn both_runs_concurrently() {
        let barrier = Barrier::new(2);
        let (first, second) = both(
            || {
                barrier.wait();
                1
            },
            || {
                barrier.wait();
                2
            },
        );
        assert_eq!((first, second), (1, 2));
    }

    #[test]
    fn each_runs_concurrently_and_keeps_order() {
        let barrier = Barrier::new(3);
        let doubled = each(&[1, 2, 3], |n| {
            barrier.wait();
            n * 2
        });
        assert_eq!(doubled, [2, 4, 6]);
    }

    #[test]
    fn panic_is_forwarded_with_message() {
        fn boom() {
            panic!("boom")
        }
        let works: [fn(); 3] = [
            || ((), ()) = both(boom, || ()),
            || ((), ()) = both(|| (), boom),
            || drop(each(&[()], |()| boom())),
        ];
        for work in works {
            let panic = catch_unwind(work).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&"boom"));
        }
    }
}
