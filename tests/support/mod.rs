//! What the tests share: the simulated Qumulo Core, the mock `qq`, and `qkey` itself in a hermetic
//! environment.

// Each test file is a crate of its own and uses its own part of this.
#![allow(dead_code)]

pub mod aws;
pub mod azure;
pub mod core;
pub mod fake_cloud_kms;
pub mod fake_kms;
pub mod http;
pub mod key_source;
pub mod mock;
pub mod openbao;
pub mod preload;
pub mod proxy;
pub mod qkey;
pub mod shell;
pub mod swtpm;
pub mod terminal;
