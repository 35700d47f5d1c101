//! The command-line program: everything is in the library.

use std::process::ExitCode;

use qkey::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    qkey::main().into()
}
