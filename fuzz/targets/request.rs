//! The fuzzer's way into [`magnetite_fuzz::request`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::request::check(bytes));
