//! The fuzzer's way into [`magnetite_fuzz::template`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magnetite_fuzz::template::check(bytes));
