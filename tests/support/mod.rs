//! What the tests share: the simulated Qumulo Core, the mock `qq`, and `qkey` itself in a hermetic
//! environment.

pub mod core;
pub mod mock;
