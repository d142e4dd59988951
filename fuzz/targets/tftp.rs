//! The fuzzer's way into [`magnetite_fuzz::tftp`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::tftp::check(bytes));
