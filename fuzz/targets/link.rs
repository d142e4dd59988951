//! The fuzzer's way into [`magnetite_fuzz::link`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::link::check(bytes));
