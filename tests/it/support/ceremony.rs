//! The four ceremonies, one command line each, for a cluster in which key 1, alice's "lock-2026",
//! locks snapshot 2 and not snapshot 3: [`mock`] and [`Core::with_lock_key`](super::core::Core).

use super::{mock::Mock, qkey::ALICE_PUBLIC};

pub const ADD: &str = "add --name=new --key=carol.pem";
pub const REPLACE: &str = "replace -k1 --old-key=alice.pem --new-key=bob.pem";
pub const UNLOCK: &str = "unlock --id=2 --key=alice.pem";
pub const LOCK: &str = "lock --id=3 --lock-key=1";

/// Each ceremony after the operation that submits it. All four succeed in this order: bob's key
/// cannot unlock what alice's has locked.
pub const CEREMONIES: [(&str, &str); 4] = [
    ("add_key", ADD),
    ("lock", LOCK),
    ("unlock", UNLOCK),
    ("replace_key", REPLACE),
];

/// The command of `qq` that carries out an operation.
pub fn qq_command(operation: &str) -> &'static str {
    match operation {
        "add_key" => "fs_security_add_key",
        "replace_key" => "fs_security_replace_key",
        "lock" => "snapshot_lock_snapshot",
        _ => "snapshot_unlock_snapshot",
    }
}

/// The mock cluster for the ceremonies.
pub fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_key("lock-2026", "", ALICE_PUBLIC);
    mock.set_snapshot_field(2, "lock_key", "1");
    mock
}

/// How many submissions of any kind a mock has received.
pub fn submissions(mock: &Mock) -> usize {
    let counts = CEREMONIES.map(|(operation, _)| mock.count(qq_command(operation)));
    counts.iter().sum()
}
