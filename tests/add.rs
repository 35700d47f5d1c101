//! `qkey add` against the mock `qq`.

mod support;

use snapbox::{assert_data_eq, str};
use support::{mock::Mock, qkey::Qkey};

#[test]
fn a_key_is_stored_and_then_already_so() {
    let mock = Mock::new();
    let qkey = Qkey::with_mock(&mock);
    let add = ["add", "--name", "lock-2026", "--key", "alice.pem"];
    assert_data_eq!(qkey.run(add).transcript(), str![[r#"
exit 0
--- stdout
Stored key 1 ("lock-2026") in the key store.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]);
    assert_data_eq!(qkey.run(add).transcript(), str![[r#"
exit 0
--- stdout
The key store holds this as key 1 ("lock-2026") already: nothing to do.
  SHA256:qDNOdPfn/SvGJI8mBwuRTxvD69XALN3M7ODcblF86v4
--- stderr

"#]]);
    assert_eq!(mock.count("fs_security_add_key"), 1);
}
