//! What the tests share: the simulated Qumulo Core, the mock `qq`, and `qkey` itself in a hermetic
//! environment.

pub mod aws;
pub mod azure;
pub mod ceremony;
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
pub mod rig;
pub mod session;
pub mod shell;
pub mod snapshot;
pub mod swtpm;
pub mod terminal;
