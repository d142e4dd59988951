//! The fuzzer's way into [`magnetite_fuzz::join`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::join::check(bytes));
