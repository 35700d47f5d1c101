//! Changes of many snapshots in one run.

pub mod run;
