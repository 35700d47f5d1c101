//! What the tests share: the simulated Qumulo Core, the mock `qq`, and `qkey` itself in a hermetic
//! environment.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code)]

pub mod core;
pub mod mock;
pub mod qkey;
